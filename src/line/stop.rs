//! A wish to stop that threads can wait for, and a thread that ends so.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[derive(Default)]
pub(crate) struct Stop {
    wanted: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn set(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits this long unless stopped before; true when stopped.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(wanted, time, |wanted| !*wanted);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A thread that is told to stop, and waited for, when this is dropped.
pub(crate) struct StoppedOnDrop {
    name: String,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl StoppedOnDrop {
    pub(crate) fn start(name: String, work: impl FnOnce(&Stop) + Send + 'static) -> io::Result<Self> {
        let stop = Arc::<Stop>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.clone()).spawn(move || work(&stopped))?;
        Ok(Self { name, stop, thread: Some(thread) })
    }
}

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.stop.set();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(thread = self.name, "a thread panicked");
        }
    }
}
