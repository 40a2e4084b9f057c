//! Points, directions and soft edges. Lengths are in part units: one unit is one pixel at 640x480.

use std::ops::{Add, Mul, Sub};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f32,
    pub(crate) y: f32,
}

impl Point {
    pub(crate) const fn new(x: f32, y: f32) -> Self {
        Self { x, y }
    }

    pub(crate) fn dot(self, other: Self) -> f32 {
        self.x * other.x + self.y * other.y
    }

    pub(crate) fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// Turned by the angle whose direction is `by`, a vector of length 1.
    pub(crate) fn turned(self, by: Self) -> Self {
        Self::new(self.x * by.x - self.y * by.y, self.x * by.y + self.y * by.x)
    }

    pub(crate) fn turned_back(self, by: Self) -> Self {
        self.turned(Self::new(by.x, -by.y))
    }
}

impl Add for Point {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::new(self.x + other.x, self.y + other.y)
    }
}

impl Sub for Point {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self::new(self.x - other.x, self.y - other.y)
    }
}

impl Mul<f32> for Point {
    type Output = Self;
    fn mul(self, factor: f32) -> Self {
        Self::new(self.x * factor, self.y * factor)
    }
}

/// The direction at twice the arc tangent of `half_tangent`: exact on every machine, unlike sine and cosine.
pub(crate) fn direction(half_tangent: f32) -> Point {
    let square = half_tangent * half_tangent;
    Point::new((1.0 - square) / (1.0 + square), 2.0 * half_tangent / (1.0 + square))
}

/// The direction of `index` sixths of a turn.
pub(crate) fn sixth_of_turn(index: u32) -> Point {
    const SIN_60: f32 = 0.866_025_4;
    match index % 6 {
        0 => Point::new(1.0, 0.0),
        1 => Point::new(0.5, SIN_60),
        2 => Point::new(-0.5, SIN_60),
        3 => Point::new(-1.0, 0.0),
        4 => Point::new(-0.5, -SIN_60),
        _ => Point::new(0.5, -SIN_60),
    }
}

#[inline]
pub(crate) fn mix(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

/// 0 below `low`, 1 above `high`, smooth between.
#[inline]
pub(crate) fn smooth_step(low: f32, high: f32, value: f32) -> f32 {
    let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
    share * share * (3.0 - 2.0 * share)
}
