//! Pictures that wait for a unit: bounded, first come, first served, closed when the model stops.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What several threads take from.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    busy: usize,
    /// How many units may go on; the others end as soon as they have nothing in hand.
    wanted: usize,
    workers: usize,
    is_closed: bool,
}

/// What was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

/// How full the queue is, and how many work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) waiting: usize,
    pub(super) busy: usize,
    pub(super) workers: usize,
}

/// A thread's place at the queue, which is free again when it is dropped, also by a panic.
pub(super) struct Worker<'a, T> {
    queue: &'a Queue<T>,
    is_busy: bool,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let state = State { waiting: VecDeque::new(), busy: 0, wanted: 0, workers: 0, is_closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Never waits.
    pub(super) fn put(&self, item: T, most: usize) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= most {
            return Err(Refused::Full);
        }
        state.waiting.push_back(item);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// For a worker that rests: what none is free to begin at once comes back.
    pub(super) fn put_at_rest(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        let is_one_free = state.busy < state.workers.min(state.wanted);
        if state.is_closed || !is_one_free || !state.waiting.is_empty() {
            return Err(item);
        }
        state.waiting.push_back(item);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// How many workers there should be.
    pub(super) fn want(&self, workers: usize) {
        self.lock().wanted = workers;
        self.changed.notify_all();
    }

    /// Nothing more comes in; what waits is still taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn depth(&self) -> Depth {
        let state = self.lock();
        Depth { waiting: state.waiting.len(), busy: state.busy, workers: state.workers }
    }

    pub(super) fn worker(&self) -> Worker<'_, T> {
        self.lock().workers += 1;
        Worker { queue: self, is_busy: false }
    }

    /// Waits until nothing waits and nobody works any more; tells whether that came to pass in time.
    pub(super) fn wait_drained(&self, at_most: Duration) -> bool {
        let state = self.lock();
        let is_full = |state: &mut State<T>| !state.waiting.is_empty() || state.busy > 0;
        let waited = self.changed.wait_timeout_while(state, at_most, is_full);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        !timeout.timed_out()
    }

    /// Locks even after a panic elsewhere: counts are changed as a whole.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Worker<'_, T> {
    /// The next item; none when this worker is one too many, or the queue is closed and empty.
    pub(super) fn take(&mut self) -> Option<T> {
        let mut state = self.queue.lock();
        self.rest(&mut state);
        loop {
            if state.workers > state.wanted && !state.is_closed {
                return None;
            }
            if let Some(item) = state.waiting.pop_front() {
                state.busy += 1;
                self.is_busy = true;
                return Some(item);
            }
            if state.is_closed {
                return None;
            }
            state = self.queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn rest(&mut self, state: &mut State<T>) {
        if std::mem::take(&mut self.is_busy) {
            state.busy = state.busy.saturating_sub(1);
            self.queue.changed.notify_all();
        }
    }
}

impl<T> Drop for Worker<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        self.rest(&mut state);
        state.workers = state.workers.saturating_sub(1);
        drop(state);
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_drains_and_lets_workers_go() {
        let queue = Queue::new();
        queue.want(1);
        assert_eq!((queue.put(1, 2), queue.put(2, 2), queue.put(3, 2)), (Ok(()), Ok(()), Err(Refused::Full)));
        let mut worker = queue.worker();
        assert_eq!(worker.take(), Some(1));
        assert_eq!(queue.depth(), Depth { waiting: 1, busy: 1, workers: 1 });
        let mut other = queue.worker();
        assert_eq!(other.take(), None, "one too many");
        drop(other);
        queue.close();
        assert_eq!(queue.put(4, 2), Err(Refused::Closed));
        assert!(!queue.wait_drained(Duration::from_millis(1)));
        assert_eq!((worker.take(), worker.take()), (Some(2), None));
        assert!(queue.wait_drained(Duration::ZERO));
        drop(worker);
        assert_eq!(queue.depth(), Depth { waiting: 0, busy: 0, workers: 0 });
    }

    #[test]
    fn only_who_rests_is_given_what_others_would_wait_for() {
        let queue = Queue::new();
        queue.want(1);
        assert_eq!(queue.put_at_rest(1), Err(1), "nobody works here yet");
        let mut worker = queue.worker();
        assert_eq!((queue.put_at_rest(1), queue.put_at_rest(2)), (Ok(()), Err(2)), "one at a time");
        assert_eq!(worker.take(), Some(1));
        assert_eq!(queue.put_at_rest(2), Err(2), "it is busy");
        queue.put(3, 1).unwrap();
        assert_eq!(worker.take(), Some(3));
        let _second = queue.worker();
        assert_eq!(queue.put_at_rest(4), Err(4), "the second is one too many");
        queue.want(2);
        assert_eq!(queue.put_at_rest(4), Ok(()));
        queue.close();
        assert_eq!((worker.take(), queue.put_at_rest(5)), (Some(4), Err(5)));
    }

    #[test]
    fn a_worker_that_panics_leaves_no_trace() {
        let queue = Queue::new();
        queue.want(1);
        queue.put((), 1).unwrap();
        std::thread::scope(|scope| {
            let died = scope.spawn(|| {
                let mut worker = queue.worker();
                worker.take().unwrap();
                panic!("as a unit may");
            });
            assert!(died.join().is_err());
        });
        assert_eq!(queue.depth(), Depth { waiting: 0, busy: 0, workers: 0 });
    }
}
