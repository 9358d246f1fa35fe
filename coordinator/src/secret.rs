//! The cluster's secret and the join tokens that it signs.
//!
//! A token is `<32 hex id>.<64 hex mac>`, `mac = blake3_keyed(secret, id)`: whoever holds the secret file can make tokens without
//! asking the cluster, and any coordinator can check one. That a token admits one node only is the catalog's business.

use docent_runtime::entropy;
use docent_types::{ClusterId, Error, Kind, Result};
use std::fmt;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// The cluster's secret: 32 random bytes, in a file as 64 hexadecimal digits that only its owner can read.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

/// A join token: proof that whoever made it holds the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Random; in the catalog it is bound to the node that it admitted.
    pub id: u128,
    mac: blake3::Hash,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Secret {
    /// Draws a secret and writes it to a new file of mode 0600; refuses to replace one, because the tokens of the old one die with it.
    pub fn create(path: &Path) -> Result<Secret> {
        let error = |error| io("create", path, &error);
        let secret = Secret(entropy::bytes().map_err(error)?);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(error)?;
        file.write_all(format!("{}\n", hex(&secret.0)).as_bytes()).map_err(error)?;
        file.sync_all().map_err(error)?;
        Ok(secret)
    }

    /// Reads a secret; refuses a file that others can read.
    pub fn read(path: &Path) -> Result<Secret> {
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::invalid(
                "secret_file",
                format!(
                    "secret file {} does not exist; create it with `docent token secret` or copy it from another coordinator",
                    path.display()
                ),
            ),
            _ => io("read", path, &error),
        };
        let mode = std::fs::metadata(path).map_err(missing)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let message = format!(
                "secret file {} can be read by others (mode {mode:04o}); run `chmod 600` on it",
                path.display()
            );
            return Err(Error::invalid("secret_file", message));
        }
        let text = std::fs::read_to_string(path).map_err(missing)?;
        unhex(text.trim()).map(Secret).ok_or_else(|| {
            let message = format!("secret file {} must hold 64 hexadecimal digits", path.display());
            Error::invalid("secret_file", message)
        })
    }

    /// Draws a new token.
    pub fn token(&self) -> Result<Token> {
        let id =
            entropy::u128().map_err(|error| Error::new(Kind::Internal, format!("cannot draw a token: {error}")))?;
        Ok(Token { id, mac: self.mac(id) })
    }

    /// The token of `text`, if this secret signed it.
    pub fn verify(&self, text: &str) -> Result<Token> {
        let token: Token = text.trim().parse()?;
        // blake3::Hash compares in constant time.
        if self.mac(token.id) == token.mac {
            return Ok(token);
        }
        Err(Error::new(
            Kind::Unauthenticated,
            "the join token is not of this cluster; create one with `docent token create` and this cluster's secret file",
        ))
    }

    /// The id of this secret's cluster. Derived and not drawn, so that coordinators can fence each other before there is a catalog
    /// to hold it; it tells nothing about the secret. A new cluster therefore needs a new secret.
    pub fn cluster(&self) -> ClusterId {
        let hash = blake3::derive_key("docent 2026-11 cluster id of a secret", &self.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        ClusterId(u128::from_be_bytes(id))
    }

    fn mac(&self, id: u128) -> blake3::Hash {
        blake3::keyed_hash(&self.0, &id.to_be_bytes())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}.{}", self.id, self.mac.to_hex())
    }
}

impl std::str::FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Token> {
        let parse = || {
            let (id, mac) = text.split_once('.')?;
            Some(Token { id: u128::from_be_bytes(unhex(id)?), mac: blake3::Hash::from_bytes(unhex(mac)?) })
        };
        let refuse = || {
            let message =
                "a join token is 32 hexadecimal digits, a dot and 64 more; create one with `docent token create`";
            Error { field: Some("token".to_owned()), ..Error::new(Kind::Unauthenticated, message) }
        };
        parse().ok_or_else(refuse)
    }
}

fn io(action: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::invalid("secret_file", format!("cannot {action} secret file {}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes of hexadecimal digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_accepted_by_its_own_secret_alone() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Secret::create(&dir.path().join("a")).unwrap();
        let theirs = Secret::create(&dir.path().join("b")).unwrap();
        let token = ours.token().unwrap().to_string();
        assert_eq!(token.len(), 32 + 1 + 64);
        assert_eq!(ours.verify(&format!("{token}\n")).unwrap().to_string(), token);
        assert_eq!(theirs.verify(&token).unwrap_err().kind, Kind::Unauthenticated);
        let forged = format!("{:032x}{}", 7, &token[32..]);
        assert_eq!(ours.verify(&forged).unwrap_err().kind, Kind::Unauthenticated);
    }

    #[test]
    fn anything_else_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::create(&dir.path().join("a")).unwrap();
        for text in ["", ".", "12.34", "\u{e9}", &"0".repeat(97), &format!("{}.{}", "g".repeat(32), "0".repeat(64))] {
            let error = secret.verify(text).unwrap_err();
            assert_eq!((error.kind, error.field.as_deref()), (Kind::Unauthenticated, Some("token")), "{text:?}");
        }
    }

    #[test]
    fn a_secret_survives_its_file_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = Secret::create(&path).unwrap();
        assert_eq!(Secret::read(&path).unwrap(), secret);
        assert_eq!(Secret::read(&path).unwrap().cluster(), secret.cluster());
        assert_ne!(Secret::create(&dir.path().join("other")).unwrap().cluster(), secret.cluster());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Secret::create(&path).is_err());
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
    }

    #[test]
    fn a_secret_that_is_missing_malformed_or_open_to_others_is_refused_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let refused = |word: &str| {
            let error = Secret::read(&path).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("secret_file"));
            assert!(error.message.contains(word) && error.message.contains("secret"), "{error}");
        };
        refused("does not exist");
        Secret::create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        refused("0640");
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        refused("64 hexadecimal");
    }
}
