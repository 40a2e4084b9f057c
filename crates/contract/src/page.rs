//! Tokens that say where the next page starts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::{Fault, Input, Operation, text};

const FORMAT: u8 = 1;
const CHECKSUM_LEN: usize = 12;

/// Writes and reads the tokens of one listing: one operation with certain filters.
///
/// A token is opaque, and is refused when it is damaged or comes from another listing. It is no secret: whoever makes one
/// up by hand gets a page of a list that he may read anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken {
    scope: Vec<u8>,
}

impl PageToken {
    /// For an operation and whatever else makes its list another one.
    #[must_use]
    pub fn new(operation: &str, scope: &str) -> Self {
        // Names of operations hold no zero byte, so no two pairs come out the same.
        Self { scope: Sha256::digest(format!("{operation}\0{scope}")).to_vec() }
    }

    /// For an operation and its input: every member counts but where the page starts and how long it is.
    #[must_use]
    pub fn of(operation: &Operation, input: &Input) -> Self {
        let mut scope = input.clone();
        scope.retain(|name, _| name != "NextToken" && name != "MaxResults");
        Self::new(operation.name(), &serde_json::Value::Object(scope).to_string())
    }

    /// The token of a position: the name or number of the last thing on the page, 1,500 bytes at most.
    #[must_use]
    pub fn write(&self, position: &str) -> String {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.checksum(position));
        bytes.extend(position.as_bytes());
        STANDARD.encode(bytes)
    }

    /// The position that a token means.
    ///
    /// # Errors
    /// When it is none of ours, or of another listing.
    pub fn read(&self, token: &str) -> Result<String, Fault> {
        self.position_in(token).ok_or_else(|| Fault::validation("the pagination token is not one of this request"))
    }

    /// Where the page that a client asks for starts; nothing for the first one.
    ///
    /// # Errors
    /// As [`PageToken::read`].
    pub fn position(&self, input: &Input) -> Result<Option<String>, Fault> {
        // An empty token is that of the first page: clients that keep it in a text send it so.
        text(input, "NextToken").filter(|token| !token.is_empty()).map(|token| self.read(token)).transpose()
    }

    fn position_in(&self, token: &str) -> Option<String> {
        let bytes = STANDARD.decode(token).ok()?;
        let (&FORMAT, rest) = bytes.split_first()? else { return None };
        let (checksum, position) = rest.split_at_checked(CHECKSUM_LEN)?;
        let position = std::str::from_utf8(position).ok()?;
        (checksum == self.checksum(position)).then(|| position.to_owned())
    }

    fn checksum(&self, position: &str) -> Vec<u8> {
        let whole = Sha256::new_with_prefix(&self.scope).chain_update(position).finalize();
        whole.iter().copied().take(CHECKSUM_LEN).collect()
    }
}
