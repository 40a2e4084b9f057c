//! Who the publisher is to the broker: from the address, from a file, or from the environment, in this order.

use std::fmt;
use std::path::Path;

use crate::broker_url::BrokerUrl;
use crate::error::PublishError;

/// Environment variable with the user's name, used when neither address nor file names one.
pub const USER_VARIABLE: &str = "LINEWARDEN_MQTT_USER";
/// Environment variable with the password of a user that was named without one.
pub const PASSWORD_VARIABLE: &str = "LINEWARDEN_MQTT_PASSWORD";

/// A user, with a password that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credentials({}:***)", self.user)
    }
}

impl Credentials {
    /// The first source that names a user decides; a user without a password gets the environment's.
    pub(crate) fn find(
        url: &BrokerUrl,
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, PublishError> {
        let from_environment = |variable: &str| environment(variable).filter(|value| !value.is_empty());
        let (user, password) = match (url.user(), file) {
            (Some(user), _) => (Some(user.to_owned()), url.password().map(ToOwned::to_owned)),
            (None, Some(path)) => {
                let (user, password) = read_file(path)?;
                (Some(user), password)
            }
            (None, None) => (from_environment(USER_VARIABLE), None),
        };
        let password = password.or_else(|| from_environment(PASSWORD_VARIABLE));
        match (user, password) {
            (Some(user), password) => Ok(Some(Self { user, password: password.unwrap_or_default() })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(PublishError::Combination(format!(
                "`{PASSWORD_VARIABLE}` is set, but no user: MQTT has no password without one, set `{USER_VARIABLE}` too"
            ))),
        }
    }
}

/// One line `user:password`, or `user` alone.
fn read_file(path: &Path) -> Result<(String, Option<String>), PublishError> {
    const KEY: &str = "credentials-file";
    let text = std::fs::read_to_string(path).map_err(|source| PublishError::Unreadable {
        key: KEY,
        path: path.to_owned(),
        source,
    })?;
    let line = text.trim_end_matches(['\r', '\n']);
    let (user, password) = match line.split_once(':') {
        Some((user, password)) => (user, Some(password.to_owned())),
        None => (line, None),
    };
    if user.is_empty() || line.contains('\n') {
        return Err(PublishError::FileContent {
            key: KEY,
            path: path.to_owned(),
            problem: "must be one line `user:password`".to_owned(),
        });
    }
    Ok((user.to_owned(), password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(url: &str, file: Option<&str>, user: &str, password: &str) -> Result<Option<(String, String)>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = file.map(|text| {
            let path = folder.path().join("credentials");
            std::fs::write(&path, text).unwrap();
            path
        });
        let environment = |variable: &str| match variable {
            USER_VARIABLE => Some(user.to_owned()),
            PASSWORD_VARIABLE => Some(password.to_owned()),
            _ => None,
        };
        let found = Credentials::find(&url.parse().unwrap(), path.as_deref(), environment);
        found.map(|found| found.map(|found| (found.user, found.password))).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_source_that_names_a_user_decides() {
        let table = [
            // url, file, user and password in the environment, found
            ("mqtt://h", None, "", "", None),
            ("mqtt://h", None, "env", "word", Some(("env", "word"))),
            ("mqtt://h", None, "env", "", Some(("env", ""))),
            ("mqtt://h", Some("filed:a:b\n"), "env", "word", Some(("filed", "a:b"))),
            ("mqtt://h", Some("filed\n"), "env", "word", Some(("filed", "word"))),
            ("mqtt://u:p@h", Some("filed:a"), "env", "word", Some(("u", "p"))),
            ("mqtt://u@h", None, "env", "word", Some(("u", "word"))),
        ];
        for (row, (url, file, user, password, found)) in table.into_iter().enumerate() {
            let found = found.map(|(user, password): (&str, &str)| (user.to_owned(), password.to_owned()));
            assert_eq!(find(url, file, user, password), Ok(found), "row {row}");
        }
    }

    #[test]
    fn half_credentials_are_refused_without_quoting_them() {
        let lonely = find("mqtt://h", None, "", "hunter2").unwrap_err();
        assert!(lonely.contains(USER_VARIABLE) && !lonely.contains("hunter2"), "{lonely}");
        for text in ["", ":hunter2", "line\nhunter2"] {
            let error = find("mqtt://h", Some(text), "", "").unwrap_err();
            assert!(error.ends_with("must be one line `user:password`") && !error.contains("hunter2"), "{error}");
        }
    }
}
