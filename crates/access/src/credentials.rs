//! An access key with its secret, in the lines that `linewarden keys create` prints and that AWS's clients keep.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::keys::KeyError;

const ID: &str = "aws_access_key_id";
const SECRET: &str = "aws_secret_access_key";

/// Who signs, and with what. Never shows the secret but by [`Credentials::to_lines`].
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
}

impl Credentials {
    /// From a file, or without one from the environment, where they have the same names in capitals. `file_is` says how a user
    /// names the file, as in ``a file by `--credentials` ``.
    ///
    /// # Errors
    /// When the file cannot be read, or either of the two is nowhere.
    pub fn find(file: Option<&Path>, file_is: &'static str) -> Result<Self, KeyError> {
        let Some(path) = file else {
            let of = |name: &str| {
                let variable = name.to_uppercase();
                let value = std::env::var(&variable).ok().filter(|value| !value.is_empty());
                value.ok_or(KeyError::NotSet { variable, file_is })
            };
            return Ok(Self { id: of(ID)?, secret: of(SECRET)? });
        };
        let text = fs::read_to_string(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        Self::parse(&text)
            .map_err(|name| KeyError::Wrong { path: path.to_owned(), told: format!("has no line `{name} = ...`") })
    }

    /// From lines `name = value`, among which there may be others.
    ///
    /// # Errors
    /// Gives the name that is missing.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let of = |name: &'static str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let value = pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
            value.filter(|value| !value.is_empty()).ok_or(name)
        };
        Ok(Self { id: of(ID)?, secret: of(SECRET)? })
    }

    /// The lines that [`Credentials::parse`] reads.
    #[must_use]
    pub fn to_lines(&self) -> String {
        format!("{ID} = {}\n{SECRET} = {}\n", self.id, self.secret)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_among_other_lines_and_what_is_missing_is_named() {
        let made = Credentials { id: "AKIA".to_owned(), secret: "a=b/c".to_owned() };
        let text = format!("[default]\nregion = x\n{}", made.to_lines());
        assert_eq!(Credentials::parse(&text), Ok(made.clone()));
        assert_eq!(Credentials::parse("aws_access_key_id = AKIA\naws_secret_access_key = \n"), Err(SECRET));
        assert!(!format!("{made:?}").contains("a=b/c"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent");
        assert!(Credentials::find(Some(&path), "").unwrap_err().to_string().contains("absent"));
        fs::write(&path, "aws_secret_access_key = x\n").unwrap();
        let told = Credentials::find(Some(&path), "").unwrap_err().to_string();
        assert!(told.contains("absent`: has no line `aws_access_key_id = ...`"), "{told}");
    }
}
