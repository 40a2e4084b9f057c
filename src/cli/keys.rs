//! `linewarden keys`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use linewarden_access::{ADMINISTRATOR, Keys, managed_names};

use super::CallError;

const EXAMPLES: &str = "\
Examples:
  linewarden keys create --user line-1
      prints an access key and its secret, once, as `aws configure` asks for them; the user may do everything
  linewarden keys create --user camera-3 --policy AmazonLookoutVisionReadOnlyAccess --policy policies/detect.json
      who may read, and do what a policy file allows; files are named from the folder of the keys' file on
  linewarden keys attach --user line-1 AmazonS3ReadOnlyAccess
  linewarden keys users
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
        /// What a new user may do: a managed policy's name, or a file; may be given again. Without one: everything
        #[arg(long = "policy", value_name = "POLICY")]
        policies: Vec<String>,
    },
    /// Allow a user what a policy allows
    Attach {
        /// Whom
        #[arg(long)]
        user: String,
        /// A managed policy's name, or a file
        policy: String,
    },
    /// Take a policy from a user
    Detach {
        /// From whom
        #[arg(long)]
        user: String,
        /// As `users` shows it
        policy: String,
    },
    /// Say which policies users have
    Users,
    /// Say which policies there are without a file
    Policies,
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
        Call::Create { user, policies } => {
            must_be_a_name(user)?;
            let is_known = keys.users()?.iter().any(|known| known.name == *user);
            let everything = [ADMINISTRATOR.to_owned()];
            let policies = if policies.is_empty() && !is_known { &everything[..] } else { policies };
            policies.iter().try_for_each(|policy| keys.attach(user, policy))?;
            keys.create(user)?.to_lines()
        }
        Call::Attach { user, policy } => {
            must_be_a_name(user)?;
            keys.attach(user, policy)?;
            format!("{user} has the policy {policy}\n")
        }
        Call::Detach { user, policy } => {
            keys.detach(user, policy)?;
            format!("{user} does not have the policy {policy} any more\n")
        }
        Call::Users => {
            let line = |user: &linewarden_access::User| format!("{}  {}\n", user.name, user.policies.join(", "));
            keys.users()?.iter().map(line).collect()
        }
        Call::Policies => managed_names().iter().map(|name| format!("{name}\n")).collect(),
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

/// A name that IAM takes: it becomes a part of ARNs and of what policies compare.
fn must_be_a_name(user: &str) -> anyhow::Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    if user.is_empty() || user.len() > 64 || !user.bytes().all(is_allowed) {
        let told = "`--user` must be a name of 1 to 64 letters, digits and any of + = , . @ _ -";
        return Err(CallError(told.to_owned()).into());
    }
    Ok(())
}
