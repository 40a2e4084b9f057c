//! An RTSP camera on the loopback interface, with a scene, a wire and a clock under the test's control.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use gst::glib;
use gst_app::AppSrc;
use gst_rtsp_server::prelude::*;

/// A server with one stream at `/camera`. It ends, with its clients' sessions, when dropped.
pub struct RtspCamera {
    server: gst_rtsp_server::RTSPServer,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
    control: Arc<Control>,
    painter: Option<JoinHandle<()>>,
}

/// What a studio's camera sees: stripes and rails that stand still, and a part that passes, dark enough to be normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scene {
    /// All is well.
    Live,
    /// The same picture again and again.
    Frozen,
    /// No light.
    Black,
    /// Far too much light.
    White,
    /// Out of focus.
    Soft,
    /// The camera was pushed aside.
    Moved,
}

/// What becomes of what the camera sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Wire {
    /// It arrives.
    Clean,
    /// Nothing arrives, and nothing ends.
    Silent,
    /// One packet in seven is lost.
    Lossy,
    /// Packets hold anything but a picture.
    Garbage,
}

/// How a studio's camera sends.
#[derive(Debug, Clone)]
pub struct Studio {
    /// Port to serve on; 0 is a free one.
    pub port: u16,
    /// Width and height in pixels, even numbers.
    pub size: (u32, u32),
    /// Frames a second.
    pub rate: u32,
    /// JPEG instead of H.264.
    pub jpeg: bool,
    /// User and password.
    pub credentials: Option<(&'static str, &'static str)>,
    /// Its sender reports tell the time since it was started, as of a camera whose clock was never set.
    pub wrong_clock: bool,
}

#[derive(Debug)]
struct Control {
    scene: AtomicU8,
    wire: AtomicU8,
    packets: AtomicU64,
    wrong_clock: bool,
    size: Mutex<(u32, u32)>,
    sources: Mutex<Vec<AppSrc>>,
    is_stopped: AtomicBool,
}

impl Default for Studio {
    fn default() -> Self {
        Self { port: 0, size: (160, 120), rate: 25, jpeg: false, credentials: None, wrong_clock: false }
    }
}

impl RtspCamera {
    /// Serves this pipeline on a free port to each client anew. It must end with a payloader named `pay0`, such as
    /// `videotestsrc is-live=true ! x264enc tune=zerolatency ! rtph264pay name=pay0`.
    ///
    /// # Errors
    /// When GStreamer or its RTSP server does not start.
    pub fn start(pipeline: &str) -> Result<Self> {
        Self::serve(pipeline, &Studio::default())
    }

    /// A camera in a studio, whose scene and wire the test changes while it runs.
    ///
    /// # Errors
    /// When GStreamer or its RTSP server does not start, for instance because the port is taken.
    pub fn studio(studio: &Studio) -> Result<Self> {
        let encoder = match studio.jpeg {
            true => "jpegenc quality=90 ! rtpjpegpay name=pay0".to_owned(),
            // Fine enough for the noise of a sensor, with a whole picture twice a second.
            false => format!(
                "x264enc tune=zerolatency speed-preset=ultrafast pass=quant quantizer=16 key-int-max={} \
                 ! rtph264pay name=pay0 config-interval=-1",
                studio.rate.div_ceil(2)
            ),
        };
        let source = "appsrc name=source is-live=true do-timestamp=true format=time";
        let mut camera = Self::serve(&format!("{source} ! {encoder}"), studio)?;
        let (control, rate) = (Arc::clone(&camera.control), studio.rate);
        let painter = thread::Builder::new().name("rtsp-studio".to_owned()).spawn(move || control.paint(rate))?;
        camera.painter = Some(painter);
        Ok(camera)
    }

    /// The same as [`RtspCamera::start`] on a port of the caller's choice, with the password and the clock of this studio.
    ///
    /// # Errors
    /// When GStreamer or its RTSP server does not start, for instance because the port is taken.
    pub fn serve(pipeline: &str, studio: &Studio) -> Result<Self> {
        gst::init().context("cannot start GStreamer: run `make setup`")?;
        let control = Arc::new(Control {
            scene: AtomicU8::new(Scene::Live as u8),
            wire: AtomicU8::new(Wire::Clean as u8),
            packets: AtomicU64::new(0),
            wrong_clock: studio.wrong_clock,
            size: Mutex::new(studio.size),
            sources: Mutex::default(),
            is_stopped: AtomicBool::new(false),
        });
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service(&studio.port.to_string());
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(&format!("( {pipeline} )"));
        factory.connect_media_configure({
            let control = Arc::clone(&control);
            move |_, media| control.take_over(media)
        });
        if let Some((user, password)) = studio.credentials {
            protect(&server, &factory, user, password);
        }
        server.mount_points().context("the server has no mount points")?.add_factory("/camera", factory);
        let context = glib::MainContext::new();
        server.attach(Some(&context)).context("cannot attach the RTSP server")?;
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = thread::Builder::new().name("rtsp-camera".to_owned()).spawn({
            let main_loop = main_loop.clone();
            move || main_loop.run()
        })?;
        Ok(Self { server, main_loop, thread: Some(thread), control, painter: None })
    }

    /// Address of the stream.
    pub fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/camera", self.server.bound_port())
    }

    /// Port of the server.
    pub fn port(&self) -> u16 {
        u16::try_from(self.server.bound_port()).unwrap_or(0)
    }

    /// Changes what the camera sees.
    pub fn show(&self, scene: Scene) {
        self.control.scene.store(scene as u8, Ordering::Relaxed);
    }

    /// Changes what becomes of what it sends.
    pub fn set_wire(&self, wire: Wire) {
        self.control.wire.store(wire as u8, Ordering::Relaxed);
    }

    /// Sends pictures of another size from now on, in the same stream.
    pub fn resize(&self, width_px: u32, height_px: u32) {
        *self.control.size.lock().unwrap_or_else(PoisonError::into_inner) = (width_px, height_px);
    }
}

/// Lets in only who knows the password.
fn protect(
    server: &gst_rtsp_server::RTSPServer,
    factory: &gst_rtsp_server::RTSPMediaFactory,
    user: &str,
    password: &str,
) {
    let role = "viewer";
    let token = gst_rtsp_server::RTSPToken::builder().field("media.factory.role", role).build();
    let auth = gst_rtsp_server::RTSPAuth::new();
    auth.add_basic(&gst_rtsp_server::RTSPAuth::make_basic(user, password), &token);
    server.set_auth(Some(&auth));
    let permissions = gst::Structure::builder(role)
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    factory.add_role_from_structure(&permissions);
}

impl Control {
    /// A client asks for the stream: its pipeline becomes ours.
    fn take_over(self: &Arc<Self>, media: &gst_rtsp_server::RTSPMedia) {
        let Ok(pipeline) = media.element().downcast::<gst::Bin>() else { return };
        if let Some(source) = pipeline.by_name("source").and_then(|source| source.downcast::<AppSrc>().ok()) {
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
        }
        if let Some(pad) = pipeline.by_name("pay0").and_then(|payloader| payloader.static_pad("src")) {
            let control = Arc::clone(self);
            let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
            pad.add_probe(kinds, move |_, info| control.carry(info));
        }
        if self.wrong_clock {
            // Its RTP session is there only now.
            media.connect_prepared(|media| set_wrong_clock(&media.element()));
        }
    }

    /// What the wire does to packets.
    fn carry(&self, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        let wire = self.wire.load(Ordering::Relaxed);
        if wire == Wire::Clean as u8 {
            return gst::PadProbeReturn::Ok;
        }
        if wire == Wire::Silent as u8 {
            return gst::PadProbeReturn::Handled;
        }
        let is_lost = || self.packets.fetch_add(1, Ordering::Relaxed).is_multiple_of(7);
        let is_lossy = wire == Wire::Lossy as u8;
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(_)) if is_lossy && is_lost() => return gst::PadProbeReturn::Handled,
            Some(gst::PadProbeData::Buffer(buffer)) if !is_lossy => *buffer = garbage(buffer),
            Some(gst::PadProbeData::BufferList(list)) => list.make_mut().foreach_mut(|buffer, _| {
                ControlFlow::Continue(match is_lossy {
                    true => (!is_lost()).then_some(buffer),
                    false => Some(garbage(&buffer)),
                })
            }),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    }

    /// The feeder's thread: a picture each time one is due, for every client.
    fn paint(&self, rate: u32) {
        let began = Instant::now();
        let mut number = 0_u32;
        let mut shown = 0;
        while !self.is_stopped.load(Ordering::Relaxed) {
            let due = Duration::from_secs(1) * number / rate;
            thread::sleep(due.saturating_sub(began.elapsed()));
            let scene = self.scene.load(Ordering::Relaxed);
            if scene != Scene::Frozen as u8 {
                shown = number;
            }
            let size = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
            self.send(picture(scene, shown, size), size, rate);
            number += 1;
        }
    }

    fn send(&self, pixels: Vec<u8>, (width_px, height_px): (u32, u32), rate: u32) {
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", i32::try_from(width_px).unwrap_or(0))
            .field("height", i32::try_from(height_px).unwrap_or(0))
            .field("framerate", gst::Fraction::new(i32::try_from(rate).unwrap_or(1), 1))
            .build();
        let sample = gst::Sample::builder().buffer(&gst::Buffer::from_mut_slice(pixels)).caps(&caps).build();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it plays it takes nothing, and after its client has gone it is stopped.
        sources.retain(|source| source.current_state() != gst::State::Playing || source.push_sample(&sample).is_ok());
    }
}

/// The packet's header, and anything but its payload.
fn garbage(packet: &gst::Buffer) -> gst::Buffer {
    const HEADER: usize = 12;
    let Ok(map) = packet.map_readable() else { return packet.clone() };
    let mut bytes = map.as_slice().to_vec();
    let mut random = RandomState::new().build_hasher();
    for byte in bytes.iter_mut().skip(HEADER) {
        random.write_u8(*byte);
        *byte = random.finish().to_le_bytes()[0];
    }
    let mut changed = gst::Buffer::from_mut_slice(bytes);
    if let Some(changed) = changed.get_mut() {
        // Its time stays; a packet without its metas is still a packet.
        let _ = packet.copy_into(changed, gst::BufferCopyFlags::TIMESTAMPS, ..);
    }
    changed
}

fn set_wrong_clock(pipeline: &gst::Element) {
    let Some(whole) = pipeline.parent().and_then(|parent| parent.downcast::<gst::Bin>().ok()) else { return };
    for element in whole.children() {
        if element.has_property("ntp-time-source") {
            element.set_property_from_str("ntp-time-source", "running-time");
        }
    }
}

/// I420 without colour.
fn picture(scene: u8, number: u32, (width_px, height_px): (u32, u32)) -> Vec<u8> {
    let grey: Box<dyn Fn(u32, u32) -> u8> = match scene {
        scene if scene == Scene::Black as u8 => Box::new(|_, _| 16),
        scene if scene == Scene::White as u8 => Box::new(|_, _| 235),
        scene if scene == Scene::Soft as u8 => Box::new(move |x, y| {
            let around =
                (0..49).map(|place| u32::from(scenery(x + place % 7, y + place / 7, width_px, height_px, number)));
            // A mean of bytes.
            (around.sum::<u32>() / 49) as u8
        }),
        scene if scene == Scene::Moved as u8 => {
            Box::new(move |x, y| scenery(x + width_px / 9, y, width_px, height_px, number))
        }
        _ => Box::new(move |x, y| scenery(x, y, width_px, height_px, number)),
    };
    let mut pixels: Vec<u8> =
        (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y))).map(|(x, y)| grey(x, y)).collect();
    let chroma = (width_px / 2 * (height_px / 2) * 2) as usize;
    pixels.resize(pixels.len() + chroma, 128);
    pixels
}

/// Stripes and rails, a part that passes in the middle, and the noise of a sensor.
fn scenery(x: u32, y: u32, width_px: u32, height_px: u32, number: u32) -> u8 {
    let part_at = number * 3 % width_px;
    let is_part = (height_px * 2 / 5..height_px * 3 / 5).contains(&y) && (part_at..part_at + width_px / 6).contains(&x);
    let is_stripe = (x * x / 97 + y / 11).is_multiple_of(3);
    let is_rail = y < height_px / 8 || y > height_px * 7 / 8;
    let grey = match (is_part, is_rail, is_stripe) {
        (true, ..) => 130,
        (_, true, stripe) => 40 + 30 * u8::from(stripe),
        (.., true) => 60,
        _ => 110,
    };
    let mixed = x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663) ^ number.wrapping_mul(83_492_791);
    grey + ((mixed >> 9) % 7) as u8
}

impl Drop for RtspCamera {
    fn drop(&mut self) {
        self.control.is_stopped.store(true, Ordering::Relaxed);
        self.server.client_filter(Some(&mut |_, _| gst_rtsp_server::RTSPFilterResult::Remove));
        let main_loop = self.main_loop.clone();
        // Quitting from within also works when the loop has not begun to run yet.
        self.main_loop.context().invoke(move || main_loop.quit());
        for thread in [self.thread.take(), self.painter.take()].into_iter().flatten() {
            // A thread that panicked has told so itself.
            let _ = thread.join();
        }
    }
}
