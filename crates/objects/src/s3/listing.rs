//! Listings, in the two versions that clients ask for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use s3s::dto::{
    CommonPrefix, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object,
    ObjectStorageClass,
};
use s3s::{S3Result, s3_error};

use super::endpoint::Endpoint;
use super::fault::fault;
use super::transfer::{moment, strong};
use crate::page::{Ask, Item, Page};
use crate::{Listed, name};

/// What a page holds at most.
const PAGE: i32 = 1000;

impl Endpoint {
    pub(super) async fn list_second(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        let token = input.continuation_token.as_deref().map(from_token).transpose()?;
        let limit = limit_of(input.max_keys)?;
        let after = token.as_deref().or(input.start_after.as_deref());
        let page = self.page(&input.bucket, input.prefix.as_deref(), input.delimiter.as_deref(), after, limit).await?;
        let encoding = encoding_of(input.encoding_type.as_ref())?;
        let is_truncated = page.next.is_some();
        let next = page.next.as_deref().map(to_token);
        let (objects, prefixes) = encoding.lines(page);
        Ok(ListObjectsV2Output {
            key_count: i32::try_from(objects.len() + prefixes.len()).ok(),
            max_keys: Some(limit),
            is_truncated: Some(is_truncated),
            continuation_token: input.continuation_token,
            next_continuation_token: next,
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|text| encoding.text(&text)),
            start_after: input.start_after.map(|text| encoding.text(&text)),
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..ListObjectsV2Output::default()
        })
    }

    pub(super) async fn list_first(&self, input: ListObjectsInput) -> S3Result<ListObjectsOutput> {
        let limit = limit_of(input.max_keys)?;
        let (prefix, delimiter) = (input.prefix.as_deref(), input.delimiter.as_deref());
        let page = self.page(&input.bucket, prefix, delimiter, input.marker.as_deref(), limit).await?;
        let encoding = encoding_of(input.encoding_type.as_ref())?;
        let is_truncated = page.next.is_some();
        let next = page.next.as_deref().map(|text| encoding.text(text));
        let (objects, prefixes) = encoding.lines(page);
        Ok(ListObjectsOutput {
            max_keys: Some(limit),
            is_truncated: Some(is_truncated),
            marker: Some(encoding.text(input.marker.as_deref().unwrap_or_default())),
            next_marker: next,
            contents: Some(objects),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|text| encoding.text(&text)),
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..ListObjectsOutput::default()
        })
    }

    async fn page(
        &self,
        bucket: &str,
        prefix: Option<&str>,
        delimiter: Option<&str>,
        after: Option<&str>,
        limit: i32,
    ) -> S3Result<Page<Listed>> {
        name::check_bucket(bucket).map_err(fault)?;
        if limit == 0 {
            self.objects.need_bucket(bucket).await.map_err(fault)?;
            return Ok(Page { items: Vec::new(), next: None });
        }
        let limit = usize::try_from(limit).unwrap_or_default();
        let ask = Ask { prefix: prefix.unwrap_or_default(), delimiter, after, limit };
        self.objects.page(bucket, ask).await.map_err(fault)
    }
}

pub(super) fn limit_of(max_keys: Option<i32>) -> S3Result<i32> {
    match max_keys.unwrap_or(PAGE) {
        limit if limit < 0 => {
            Err(s3_error!(InvalidArgument, "Argument maxKeys must be an integer between 0 and 2147483647"))
        }
        limit => Ok(limit.min(PAGE)),
    }
}

fn to_token(key: &str) -> String {
    STANDARD.encode(key)
}

fn from_token(token: &str) -> S3Result<String> {
    let key = STANDARD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

/// How names are written into the answer: XML cannot hold every key.
#[derive(Clone, Copy)]
pub(super) enum Encoding {
    AsIs,
    Url,
}

pub(super) fn encoding_of(encoding_type: Option<&EncodingType>) -> S3Result<Encoding> {
    match encoding_type.map(EncodingType::as_str) {
        None => Ok(Encoding::AsIs),
        Some(EncodingType::URL) => Ok(Encoding::Url),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
    }
}

impl Encoding {
    pub(super) fn text(self, text: &str) -> String {
        match self {
            Self::AsIs => text.to_owned(),
            Self::Url => url_encoded(text),
        }
    }

    fn lines(self, page: Page<Listed>) -> (Vec<Object>, Vec<CommonPrefix>) {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for item in page.items {
            match item {
                Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(self.text(&prefix)) }),
                Item::Object(listed) => objects.push(Object {
                    key: Some(self.text(&listed.key)),
                    size: i64::try_from(listed.size).ok(),
                    e_tag: Some(strong(&listed.etag)),
                    last_modified: Some(moment(listed.modified)),
                    storage_class: Some(ObjectStorageClass::from(ObjectStorageClass::STANDARD.to_owned())),
                    ..Object::default()
                }),
            }
        }
        (objects, prefixes)
    }
}

fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
