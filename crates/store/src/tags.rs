//! Tags of resources, by their ARNs.

use sqlx::AnyConnection;

use crate::rows::text;
use crate::{Metadata, StoreError};

impl Metadata {
    /// Key and value, by key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tags(&self, arn: &str) -> Result<Vec<(String, String)>, StoreError> {
        let query = "SELECT tag_key, tag_value FROM tags WHERE arn = $1 ORDER BY tag_key";
        let rows = sqlx::query(query).bind(arn).fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(|row| Ok((text(row, "tag_key")?, text(row, "tag_value")?))).collect()
    }

    /// Sets tags; others stay.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_tags(&self, arn: &str, tags: &[(String, String)]) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        put_tags(&mut writing, arn, tags).await?;
        Ok(writing.commit().await?)
    }

    /// Takes tags away; one that is not there is none the worse.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_tags(&self, arn: &str, keys: &[String]) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        for key in keys {
            let query = sqlx::query("DELETE FROM tags WHERE arn = $1 AND tag_key = $2").bind(arn).bind(key);
            query.execute(&mut *writing).await?;
        }
        Ok(writing.commit().await?)
    }
}

pub(crate) async fn put_tags(
    connection: &mut AnyConnection,
    arn: &str,
    tags: &[(String, String)],
) -> Result<(), StoreError> {
    for (key, value) in tags {
        let query = "INSERT INTO tags (arn, tag_key, tag_value) VALUES ($1, $2, $3)
            ON CONFLICT (arn, tag_key) DO UPDATE SET tag_value = excluded.tag_value";
        sqlx::query(query).bind(arn).bind(key).bind(value).execute(&mut *connection).await?;
    }
    Ok(())
}
