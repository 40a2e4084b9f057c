//! The broker's address as people write it: `mqtt://user:password@host:port`.

use std::fmt;
use std::str::FromStr;

/// Where the broker is, whether to speak TLS with it, and as whom. Never shows its password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    tls: bool,
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
}

/// What is wrong with a broker's address. Never quotes the part that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`broker` must be `mqtt://[user[:password]@]host[:port]` or `mqtts://...`: {0}")]
pub struct BrokerUrlError(String);

impl BrokerUrl {
    /// Whether the connection is encrypted (`mqtts://`).
    pub const fn is_tls(&self) -> bool {
        self.tls
    }

    /// Name or address of the broker, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// User name, if the address has one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.host.contains(':')
    }
}

impl FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(|| wrong("no `mqtt://` in front"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => false,
            "mqtts" => true,
            other => return Err(wrong(format!("unknown scheme `{other}`"))),
        };
        // The last `@` ends the credentials, so that one in an unescaped password does no harm.
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let (host, port) = host_and_port(address.strip_suffix('/').unwrap_or(address))?;
        let (user, password) = credentials.map_or(Ok((None, None)), user_and_password)?;
        let port = port.unwrap_or(if tls { 8883 } else { 1883 });
        Ok(Self { tls, host, port, user, password })
    }
}

fn wrong(problem: impl Into<String>) -> BrokerUrlError {
    BrokerUrlError(problem.into())
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>), BrokerUrlError> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| wrong("no `]` after the IPv6 address"))?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong(format!("`{host}` is no IPv6 address")))?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err(wrong(format!("`{after}` after the IPv6 address"))),
            }
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() {
        return Err(wrong("no host"));
    }
    let is_foreign = |character: char| !(character.is_alphanumeric() || "-._:".contains(character));
    if let Some(foreign) = host.chars().find(|&character| is_foreign(character)) {
        return Err(wrong(format!("`{foreign}` in the host; a path, query or fragment is not allowed")));
    }
    let port = port.map(|port| match port.parse::<u16>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(wrong(format!("port must be from 1 to 65535, got `{port}`"))),
    });
    Ok((host.to_owned(), port.transpose()?))
}

fn user_and_password(credentials: &str) -> Result<(Option<String>, Option<String>), BrokerUrlError> {
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    if user.is_empty() {
        return Err(wrong("no user before the `@`"));
    }
    let user = percent_decoded(user).ok_or_else(|| wrong("user: `%` must be followed by two hexadecimal digits"))?;
    let malformed = || wrong("password: `%` must be followed by two hexadecimal digits (write `%25` for `%`)");
    let password = password.map(|password| percent_decoded(password).ok_or_else(malformed)).transpose()?;
    Ok((Some(user), password))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits =
            str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.tls { "mqtts://" } else { "mqtt://" })?;
        if let Some(user) = &self.user {
            write!(formatter, "{user}{}@", if self.password.is_some() { ":***" } else { "" })?;
        }
        match self.is_ipv6() {
            true => write!(formatter, "[{}]:{}", self.host, self.port),
            false => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BrokerUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BrokerUrl, BrokerUrlError> {
        text.parse()
    }

    #[test]
    fn an_address_is_read_with_its_defaults() {
        let table = [
            // text, tls, host, port, user, password
            ("mqtt://broker", false, "broker", 1883, None, None),
            ("mqtts://broker", true, "broker", 8883, None, None),
            ("MQTT://10.0.0.7:2883/", false, "10.0.0.7", 2883, None, None),
            ("mqtt://[::1]:1884", false, "::1", 1884, None, None),
            ("mqtt://[fe80::2]", false, "fe80::2", 1883, None, None),
            ("mqtt://line1@broker", false, "broker", 1883, Some("line1"), None),
            ("mqtts://line1:secret@broker:99", true, "broker", 99, Some("line1"), Some("secret")),
            ("mqtt://a%40b:p%3A%2F%c3%a4@host", false, "host", 1883, Some("a@b"), Some("p:/ä")),
            ("mqtt://user:p@ss@host", false, "host", 1883, Some("user"), Some("p@ss")),
            ("mqtt://user:a:b@host", false, "host", 1883, Some("user"), Some("a:b")),
        ];
        for (text, tls, host, port, user, password) in table {
            let url = parse(text).unwrap();
            let read = (url.is_tls(), url.host(), url.port(), url.user(), url.password());
            assert_eq!(read, (tls, host, port, user, password), "{text}");
        }
    }

    #[test]
    fn a_wrong_address_is_told_with_what_is_allowed() {
        let table = [
            ("broker:1883", "no `mqtt://` in front"),
            ("http://broker", "unknown scheme `http`"),
            ("mqtt://", "no host"),
            ("mqtt://:1883", "no host"),
            ("mqtt://@broker", "no user before the `@`"),
            ("mqtt://broker:0", "port must be from 1 to 65535, got `0`"),
            ("mqtt://broker:port", "port must be from 1 to 65535, got `port`"),
            ("mqtt://broker/topic", "`/` in the host; a path, query or fragment is not allowed"),
            ("mqtt://broker?tls=1", "`?` in the host; a path, query or fragment is not allowed"),
            ("mqtt://[::1", "no `]` after the IPv6 address"),
            ("mqtt://[broker]", "`broker` is no IPv6 address"),
        ];
        for (text, problem) in table {
            let expected =
                format!("`broker` must be `mqtt://[user[:password]@]host[:port]` or `mqtts://...`: {problem}");
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn the_password_is_never_shown() {
        let url = parse("mqtts://line1:hunter2@broker").unwrap();
        assert_eq!(url.to_string(), "mqtts://line1:***@broker:8883");
        assert_eq!(format!("{url:?}"), "BrokerUrl(mqtts://line1:***@broker:8883)");
        for text in ["mqtt://line1:hunter2%zz@broker", "mqtt://line1:hunter2@", "mqtt://line1:hunter2@broker:x"] {
            assert!(!parse(text).unwrap_err().to_string().contains("hunter2"), "{text}");
        }
    }
}
