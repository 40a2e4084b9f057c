//! A thread with a runtime of its own, for one output.

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use crate::OutputError;
use crate::mailbox::Mailbox;

/// An output at work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) mailbox: Arc<Mailbox>,
    ended: mpsc::Receiver<()>,
}

/// Runs `begin` on a new thread and gives back what it says; what it returned goes on there until it ends by itself.
pub(crate) fn start<Begin, Work>(name: String, mailbox: Arc<Mailbox>, begin: Begin) -> Result<Running, OutputError>
where
    Begin: AsyncFnOnce() -> Result<Work, OutputError> + Send + 'static,
    Work: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OutputError::Thread)?;
    let (ended_sender, ended) = mpsc::channel();
    let (begun_sender, begun) = mpsc::channel();
    let work = move || {
        runtime.block_on(async {
            match begin().await {
                Ok(work) => {
                    // Whoever started this waits for the answer.
                    let _ = begun_sender.send(Ok(()));
                    work.await;
                }
                Err(error) => {
                    let _ = begun_sender.send(Err(error));
                }
            }
        });
        // Connections of clients may still be open; they must not hold up the end.
        runtime.shutdown_background();
        let _ = ended_sender.send(());
    };
    std::thread::Builder::new().name(format!("lw-out-{name}")).spawn(work).map_err(OutputError::Thread)?;
    match begun.recv() {
        Ok(Ok(())) => Ok(Running { name, mailbox, ended }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(OutputError::Start { output: "an output", problem: "its thread ended at once".to_owned() }),
    }
}

impl Running {
    /// False after saying that it has not ended by then.
    pub(crate) fn wait_until(self, deadline: Instant) -> bool {
        match self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(()) => true,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                tracing::error!(output = self.name, "output had ended by a panic");
                false
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::error!(output = self.name, "output did not stop in time");
                false
            }
        }
    }
}
