//! Commands that come over MQTT, on `<prefix>/<line>/command`; each is answered on `<prefix>/<line>/command/reply`.
//!
//! Whoever may publish there changes the line's model: nothing is heard unless the configuration says so, and a model must
//! lie in the folder that it names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use linewarden_publish::{Heard, Publisher, Subscriber};
use serde::Deserialize;
use serde_json::{Value, json};

use super::models::{LineModels, LoadedModel};
use super::watch::{Request, Watch};
use crate::config::LineConfig;

/// Commands that wait while one is carried out; who sends more is told so.
const MOST_WAITING: usize = 8;
/// An answer that comes later helps nobody.
const REPLY_EXPIRY: Duration = Duration::from_secs(60);
const LONGEST_ID: usize = 256;

/// Hears a line's commands until it is dropped.
pub(super) struct Commands {
    _subscriber: Subscriber,
}

#[derive(Deserialize)]
struct Command {
    command: String,
    #[serde(default)]
    model: Option<String>,
    /// Of a challenge, as are the next two.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    expect: Vec<String>,
    #[serde(default)]
    within: Option<String>,
    #[serde(default)]
    id: Value,
}

/// What a command led to.
enum Done {
    Model(LoadedModel),
    Challenge(Value),
}

/// Carries commands out, one after the other.
struct Worker {
    line: String,
    folder: PathBuf,
    models: Arc<LineModels>,
    watch: Arc<Watch>,
    publisher: Publisher,
}

impl Commands {
    /// Starts to listen, if the configuration wants it.
    pub(super) fn start(
        line: &LineConfig,
        models: &Arc<LineModels>,
        watch: &Arc<Watch>,
        publisher: Option<&Publisher>,
    ) -> anyhow::Result<Option<Self>> {
        let (Some(config), Some(publisher), Some(folder)) = (&line.publisher, publisher, &line.command_models) else {
            return Ok(None);
        };
        let (sender, waiting) = mpsc::sync_channel::<Vec<u8>>(MOST_WAITING);
        let (name, folder) = (line.name.clone(), folder.clone());
        let (models, watch) = (Arc::clone(models), Arc::clone(watch));
        let worker = Worker { line: name, folder, models, watch, publisher: publisher.clone() };
        let spawned = thread::Builder::new()
            .name(format!("lw-command-{}", line.name))
            .spawn(move || waiting.iter().for_each(|message| worker.carry_out(&message)));
        spawned.context("cannot start the thread of the commands")?;
        let (line_name, publisher) = (line.name.clone(), publisher.clone());
        let listener = move |heard: Heard<'_>| match heard {
            Heard::Subscribed => tracing::info!(line = line_name, "commands are heard"),
            Heard::Lost { error } => tracing::debug!(line = line_name, error, "commands are not heard"),
            Heard::Message(message) if sender.try_send(message.to_vec()).is_err() => {
                reply(&publisher, &Value::Null, Err("too many commands wait".to_owned()));
            }
            _ => {}
        };
        let topic = format!("{}/{}/command", config.topic_prefix, line.name);
        let subscriber = Subscriber::start(config.clone(), &topic, Box::new(listener));
        let subscriber = subscriber.with_context(|| format!("cannot listen for commands to line `{}`", line.name))?;
        Ok(Some(Self { _subscriber: subscriber }))
    }
}

impl Worker {
    fn carry_out(&self, message: &[u8]) {
        let command = match serde_json::from_slice::<Command>(message) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(line = self.line, %error, "a command cannot be understood");
                return reply(&self.publisher, &Value::Null, Err(format!("the command cannot be understood: {error}")));
            }
        };
        let id = match &command.id {
            Value::String(text) if text.len() > LONGEST_ID => Value::Null,
            id @ (Value::String(_) | Value::Number(_)) => id.clone(),
            _ => Value::Null,
        };
        reply(&self.publisher, &id, self.done(command));
    }

    fn done(&self, command: Command) -> Result<Done, String> {
        let told = |error: super::models::ChangeError| error.to_string();
        match (command.command.as_str(), &command.model) {
            ("model_swap", Some(model)) => self.models.swap(&self.allowed(model)?).map(Done::Model).map_err(told),
            ("model_swap", None) => Err("`model` is missing: it must be the path of a model package".to_owned()),
            ("model_rollback", _) => self.models.roll_back().map(Done::Model).map_err(told),
            ("challenge", _) => {
                let Command { name, expect, within, .. } = command;
                let announced = self.watch.announce(Request { name, expect, within });
                announced.map(Done::Challenge).map_err(|refusal| refusal.to_string())
            }
            (other, _) => Err(format!("unknown command `{other}`: allowed are model_swap, model_rollback, challenge")),
        }
    }

    /// A package in the folder that commands may name models from; links do not lead out of it.
    fn allowed(&self, model: &str) -> Result<PathBuf, String> {
        let refused = || format!("`model`: there is no package `{model}` in the folder of models for commands");
        let real = |path: &Path| path.canonicalize().map_err(|_| refused());
        let (folder, path) = (real(&self.folder)?, real(&self.folder.join(model))?);
        if path != folder && path.starts_with(&folder) { Ok(path) } else { Err(refused()) }
    }
}

fn reply(publisher: &Publisher, id: &Value, outcome: Result<Done, String>) {
    let mut message = json!({ "schema": 1, "id": id, "ok": outcome.is_ok(), "error": null, "model": null, "path": null, "challenge": null });
    match outcome {
        Ok(Done::Model(LoadedModel { path, model, .. })) => {
            message["model"] = json!(model);
            message["path"] = json!(path);
        }
        Ok(Done::Challenge(challenge)) => message["challenge"] = challenge,
        Err(error) => message["error"] = json!(error),
    }
    publisher.aside("command/reply", message.to_string().as_bytes(), REPLY_EXPIRY);
}
