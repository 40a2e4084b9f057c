//! Requests that are sent again.

use sqlx::{AnyConnection, Row as _};

use crate::StoreError;
use crate::rows::now;

/// A caller may send its request again for so long.
const REMEMBERED_MICROS: i64 = 24 * 3600 * 1_000_000;

/// The caller's word that a request which comes again is the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientToken {
    /// Tokens of different operations have nothing to do with each other.
    pub operation: &'static str,
    /// What the caller chose.
    pub token: String,
    /// Of the request without the token.
    pub request_sha256: String,
}

/// What became of a request to create something.
#[derive(Debug, Clone, PartialEq)]
pub enum Created<T> {
    /// It was made now.
    New(T),
    /// The same request made it before.
    Again(T),
}

impl<T> Created<T> {
    /// Either way.
    pub fn into_inner(self) -> T {
        match self {
            Self::New(made) | Self::Again(made) => made,
        }
    }
}

/// What the request with this token made before.
pub(crate) async fn made_before(
    connection: &mut AnyConnection,
    token: Option<&ClientToken>,
) -> Result<Option<String>, StoreError> {
    let Some(ClientToken { operation, token, request_sha256 }) = token else { return Ok(None) };
    let old = sqlx::query("DELETE FROM tokens WHERE created_at < $1").bind(now() - REMEMBERED_MICROS);
    old.execute(&mut *connection).await?;
    let query = "SELECT request_sha256, subject FROM tokens WHERE operation = $1 AND token = $2";
    let Some(row) = sqlx::query(query).bind(*operation).bind(token).fetch_optional(connection).await? else {
        return Ok(None);
    };
    let sha256: String = row.try_get("request_sha256")?;
    if sha256 != *request_sha256 {
        return Err(StoreError::TokenReused);
    }
    Ok(Some(row.try_get("subject")?))
}

/// Remembers what the request with this token made.
pub(crate) async fn remember(
    connection: &mut AnyConnection,
    token: Option<&ClientToken>,
    subject: &str,
) -> Result<(), StoreError> {
    let Some(ClientToken { operation, token, request_sha256 }) = token else { return Ok(()) };
    let query =
        "INSERT INTO tokens (operation, token, request_sha256, subject, created_at) VALUES ($1, $2, $3, $4, $5)";
    let query = sqlx::query(query).bind(*operation).bind(token).bind(request_sha256).bind(subject).bind(now());
    query.execute(connection).await?;
    Ok(())
}
