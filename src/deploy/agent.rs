//! A running agent changes over to the package that is in the component's place now.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use linewarden_proto::edge_agent::edge_agent_client::EdgeAgentClient;
use linewarden_proto::edge_agent::{
    DescribeModelRequest, ModelDescription, ModelStatus, StartModelRequest, StopModelRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Longer than any model takes to load, and its last pictures to be answered.
const PATIENCE: Duration = Duration::from_secs(180);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A service that was just started listens by then.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// What an agent does with the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It runs it.
    Runs,
    /// It knows it, and was not asked to run it.
    Stopped,
    /// There is no agent.
    Absent,
}

/// Whether an agent runs this component now.
pub(super) fn runs(socket: &Path, name: &str) -> anyhow::Result<bool> {
    let asked = talk(socket, async |mut client| {
        let asked = DescribeModelRequest { model_component: name.to_owned() };
        match client.describe_model(asked).await {
            Ok(described) => {
                let description = described.into_inner().model_description.unwrap_or_default();
                Ok(matches!(description.status(), ModelStatus::Running | ModelStatus::Starting))
            }
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(told(status)),
        }
    });
    Ok(asked.with_context(|| format!("cannot ask the agent at `{}` for `{name}`", socket.display()))?.unwrap_or(false))
}

/// Has the agent let go of a component's model and load the one that lies there now. One that ran runs again, and so does one
/// that `starts`.
pub(super) fn change_over(
    socket: &Path,
    name: &str,
    starts: bool,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<State> {
    let changed = talk(socket, async |client| changed(client, name, starts, tell).await);
    let changed = changed.with_context(|| format!("the agent at `{}` does not run `{name}`", socket.display()))?;
    Ok(changed.unwrap_or(State::Absent))
}

/// What an agent that was just started does with a component that its configuration starts, or does not.
pub(super) fn begun(socket: &Path, name: &str) -> anyhow::Result<State> {
    let begun = talk(socket, async |mut client| {
        let described = settled(&mut client, name).await?;
        match described.status() {
            ModelStatus::Running => Ok(State::Runs),
            ModelStatus::Failed => bail!("{}", described.status_message),
            _ => Ok(State::Stopped),
        }
    });
    let begun = begun.with_context(|| format!("the agent at `{}` does not run `{name}`", socket.display()))?;
    Ok(begun.unwrap_or(State::Absent))
}

/// `None` when nobody listens.
fn talk<T>(
    socket: &Path,
    say: impl AsyncFnOnce(EdgeAgentClient<Channel>) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    match UnixStream::connect(socket) {
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The library takes a path that begins at the root only.
    let socket = std::path::absolute(socket)?;
    let said = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let client = EdgeAgentClient::new(endpoint.connect().await?);
        tokio::time::timeout(PATIENCE, say(client)).await?
    });
    said.map(Some)
}

/// Waits until somebody listens.
pub(super) fn wait_for(socket: &Path) -> anyhow::Result<()> {
    let until = Instant::now() + LISTENS_WITHIN;
    while let Err(error) = UnixStream::connect(socket) {
        if Instant::now() >= until {
            return Err(error).with_context(|| format!("the agent does not listen on `{}`", socket.display()));
        }
        thread::sleep(ASK_EVERY);
    }
    Ok(())
}

async fn changed(
    mut client: EdgeAgentClient<Channel>,
    name: &str,
    starts: bool,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<State> {
    let ran = match settled(&mut client, name).await?.status() {
        ModelStatus::Running => {
            tell("letting go of the model that runs");
            let asked = StopModelRequest { model_component: name.to_owned() };
            client.stop_model(asked).await.map_err(told)?;
            true
        }
        _ => false,
    };
    if !ran && !starts {
        return Ok(State::Stopped);
    }
    tell("loading the model");
    client.start_model(StartModelRequest { model_component: name.to_owned() }).await.map_err(told)?;
    let described = settled(&mut client, name).await?;
    match described.status() {
        ModelStatus::Running => Ok(State::Runs),
        _ => bail!("{}", described.status_message),
    }
}

/// What the agent says once nothing is on its way any more.
async fn settled(client: &mut EdgeAgentClient<Channel>, name: &str) -> anyhow::Result<ModelDescription> {
    loop {
        let asked = DescribeModelRequest { model_component: name.to_owned() };
        let described = client.describe_model(asked).await.map_err(told)?.into_inner().model_description;
        let described = described.unwrap_or_default();
        if !matches!(described.status(), ModelStatus::Starting | ModelStatus::Stopping) {
            return Ok(described);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn told(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{:?}: {}", status.code(), status.message())
}
