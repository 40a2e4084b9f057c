//! `linewarden keys`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use linewarden_access::Keys;

use super::CallError;

const EXAMPLES: &str = "\
Examples:
  linewarden keys create --user line-1
      prints an access key and its secret, once, as `aws configure` asks for them
  linewarden keys list
  linewarden keys disable AKIA...
  linewarden keys delete AKIA... --keys /etc/linewarden/keys.toml";

/// Access keys for the REST API and the S3 endpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    call: Call,
    /// The file of the keys, as `keys` under `[api]` names it
    #[arg(long, value_name = "FILE", default_value = "keys.toml", global = true)]
    keys: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Call {
    /// Make a key and print its secret, which nobody can see again
    Create {
        /// Whose it is
        #[arg(long)]
        user: String,
    },
    /// Say which keys there are
    List,
    /// Let a key's signatures count no more
    Disable {
        /// The access key id
        id: String,
    },
    /// Let them count again
    Enable {
        /// The access key id
        id: String,
    },
    /// Remove a key for good
    Delete {
        /// The access key id
        id: String,
    },
}

pub(super) fn run(args: &KeysArgs) -> anyhow::Result<()> {
    let keys = Keys::open(&args.keys)?;
    let text = match &args.call {
        Call::Create { user } => {
            if user.is_empty() || user.chars().any(char::is_control) {
                return Err(CallError("`--user` must be a name".to_owned()).into());
            }
            let made = keys.create(user)?;
            format!("aws_access_key_id = {}\naws_secret_access_key = {}\n", made.id, made.secret)
        }
        Call::List => {
            let line = |key: &linewarden_access::AccessKey| {
                let state = if key.enabled { "enabled" } else { "disabled" };
                format!("{}  {state:<8}  {:.0}  {}\n", key.id, key.created_at, key.user)
            };
            keys.list()?.iter().map(line).collect()
        }
        Call::Disable { id } => {
            keys.enable(id, false)?;
            format!("{id} is disabled\n")
        }
        Call::Enable { id } => {
            keys.enable(id, true)?;
            format!("{id} is enabled\n")
        }
        Call::Delete { id } => {
            keys.delete(id)?;
            format!("{id} is deleted\n")
        }
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
