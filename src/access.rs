//! Who may do what: roles, the tokens that prove them, and links that stand in for a token for a while.
//!
//! Of a token only its SHA-256 digest is kept. A candidate is compared with all of them, each in
//! constant time, and neither a log nor `Debug` can show one. A link is signed (HMAC-SHA256) with a
//! digest for a key, so it dies with its token, and needs no memory of its own.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// The shortest token: 16 characters of a password generator are beyond guessing.
const TOKEN_LEN_MIN: usize = 16;
/// The longest: what a header may hold without trouble.
const TOKEN_LEN_MAX: usize = 512;
/// Longer than any list of tokens.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// What somebody may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Hear the stations and see which there are.
    Listen,
    /// Have a stream of one's own drawn.
    Session,
    /// Change how the stations play.
    Control,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Listen, Self::Session, Self::Control];

    /// As a file of tokens has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Session => "session",
            Self::Control => "control",
        }
    }
}

type Sum = [u8; 32];

/// Which token somebody has: its digest, which nobody is shown.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId(Sum);

impl TokenId {
    /// Of a token, be it one of ours or not.
    pub fn of(token: &str) -> Self {
        Self(sum_of(token))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenId")
    }
}

/// The tokens of a house. Clones are the same tokens: all change when one [adopts](Tokens::adopt) others.
#[derive(Clone, Default)]
pub struct Tokens(Arc<RwLock<List>>);

type List = Vec<(Role, Sum)>;

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.list().len())
    }
}

/// Why a file of tokens is refused. *Fatal*: a human must change it.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error("cannot read the tokens in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says what it should not; the line is not shown, for it may hold a secret.
    #[error("the tokens in {}, line {line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody could come in.
    #[error("there is no token in {}; a line of it is `listen TOKEN`, `session TOKEN` or `control TOKEN`", .0.display())]
    Empty(PathBuf),
    /// Everybody could listen, where that was not said to be meant.
    #[error("no token in {} is one to listen, so everybody who can reach this machine could: add a line `listen TOKEN`, or say open = true in [network] if that is meant", .0.display())]
    Open(PathBuf),
}

impl Tokens {
    /// Reads a file: a line is a role, a token, and whatever else helps to tell whose it is.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let text = read_text(path).map_err(|source| TokensError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Understands `text`; `path` is what errors call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TokensError> {
        let mut tokens = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let token = token_of(line).map_err(|why| TokensError::Line {
                path: path.to_owned(),
                line: index + 1,
                why,
            })?;
            tokens.push(token);
        }
        match tokens.is_empty() {
            true => Err(TokensError::Empty(path.to_owned())),
            false => Ok(Self(Arc::new(RwLock::new(tokens)))),
        }
    }

    /// Holds those of `others` from here on, and no others.
    pub fn adopt(&self, others: &Self) {
        let list = others.list().clone();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    fn list(&self) -> RwLockReadGuard<'_, List> {
        // A list is replaced whole or not at all.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a role has to be proved.
    pub fn guard(&self, role: Role) -> bool {
        self.list().iter().any(|(of, _)| *of == role)
    }

    /// What the owner of `token` may do, if it is one of ours.
    pub fn role_of(&self, token: &str) -> Option<Role> {
        let sum = sum_of(token);
        let mut found = 0u8;
        for (role, known) in self.list().iter() {
            let rank = 1 + *role as u8;
            let is_it: Choice = known.ct_eq(&sum);
            found = u8::conditional_select(&found, &found.max(rank), is_it);
        }
        Role::ALL.into_iter().find(|role| 1 + *role as u8 == found)
    }

    /// The signature of a link that lets its bearer listen until then, in seconds since 1970; `None`
    /// where there is no token to listen with.
    pub fn sign(&self, expires_s: u64) -> Option<String> {
        let list = self.list();
        let (_, key) = list.iter().find(|(role, _)| *role == Role::Listen)?;
        let bytes = mac(key, expires_s).finalize().into_bytes();
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The token to listen with that has signed a link which is still good, if one has.
    pub fn signer(&self, expires_s: u64, signature: &str, now_s: u64) -> Option<TokenId> {
        let bytes = bytes_of(signature)?;
        let list = self.list();
        let keys = list.iter().filter(|(role, _)| *role == Role::Listen);
        let signer = keys.fold(None, |signer, (_, key)| {
            let is_it = mac(key, expires_s).verify_slice(&bytes).is_ok();
            is_it.then_some(TokenId(*key)).or(signer)
        });
        signer.filter(|_| now_s < expires_s)
    }
}

/// The role and the digest of a line.
fn token_of(line: &str) -> Result<(Role, Sum), &'static str> {
    let mut words = line.split_whitespace();
    let role = words.next().unwrap_or_default();
    let role = Role::ALL.into_iter().find(|known| known.name() == role);
    let role = role.ok_or("it must begin with listen, session or control")?;
    let token = words.next().ok_or("there is no token behind the role")?;
    if !(TOKEN_LEN_MIN..=TOKEN_LEN_MAX).contains(&token.len()) {
        return Err(
            "a token must have from 16 to 512 characters, such as `openssl rand -hex 16` gives",
        );
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token must be of ASCII letters, digits and signs");
    }
    Ok((role, sum_of(token)))
}

fn sum_of(token: &str) -> Sum {
    Sha256::digest(token.as_bytes()).into()
}

fn mac(key: &Sum, expires_s: u64) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(format!("longwave listen {expires_s}").as_bytes());
    mac
}

/// 64 digits as 32 bytes.
fn bytes_of(digits: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = digits.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// Whether everybody on this machine may read a file, as far as can be told.
pub fn is_exposed(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path)?;
    let n_bytes = file.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    match n_bytes as u64 > FILE_LEN_MAX {
        true => Err(io::Error::other("it is longer than 64 KiB")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAR: &str = "hear-hear-hear-hear";
    const STEER: &str = "steer-steer-steer-steer";

    fn tokens(text: &str) -> Result<Tokens, String> {
        Tokens::parse(text, Path::new("tokens")).map_err(|error| error.to_string())
    }

    fn both() -> Tokens {
        tokens(&format!(
            "# ours\n\nlisten {HEAR} the kitchen\ncontrol {STEER}\n"
        ))
        .unwrap()
    }

    #[test]
    fn a_token_proves_its_role_and_nothing_else_does() {
        let tokens = both();
        assert_eq!(tokens.role_of(HEAR), Some(Role::Listen));
        assert_eq!(tokens.role_of(STEER), Some(Role::Control));
        for wrong in [
            "",
            "the",
            "hear-hear-hear-hea",
            "hear-hear-hear-hear ",
            "listen",
        ] {
            assert_eq!(tokens.role_of(wrong), None, "{wrong:?}");
        }
        assert!(Role::Control > Role::Listen);
    }

    #[test]
    fn tokens_that_were_replaced_prove_nothing_any_more() {
        let ours = both();
        let shared = ours.clone();
        ours.adopt(&tokens("listen other-other-other-other").unwrap());
        assert_eq!(shared.role_of(HEAR), None);
        let other = shared.role_of("other-other-other-other");
        assert_eq!(other, Some(Role::Listen));
    }

    #[test]
    fn a_role_is_guarded_where_it_has_a_token() {
        let only_control = tokens(&format!("control {STEER}")).unwrap();
        assert!(only_control.guard(Role::Control) && !only_control.guard(Role::Listen));
        assert!(both().guard(Role::Listen));
        assert!(!Tokens::default().guard(Role::Control));
    }

    #[test]
    fn a_link_is_good_until_it_expires_and_only_as_it_was_signed() {
        let tokens = both();
        let signature = tokens.sign(1_000).unwrap();
        let is_signed = |tokens: &Tokens, expires_s, signature: &str, now_s| {
            let signer = tokens.signer(expires_s, signature, now_s);
            assert!(signer.is_none_or(|signer| signer == TokenId::of(HEAR)));
            signer.is_some()
        };
        assert!(is_signed(&tokens, 1_000, &signature, 999));
        assert!(!is_signed(&tokens, 1_000, &signature, 1_000));
        assert!(!is_signed(&tokens, 1_001, &signature, 999));
        let mut forged = signature.clone().into_bytes();
        forged[5] ^= 1;
        assert!(!is_signed(
            &tokens,
            1_000,
            std::str::from_utf8(&forged).unwrap(),
            999
        ));
        for wrong in ["", "é", &signature[1..], &"+1".repeat(32)] {
            assert!(!is_signed(&tokens, 1_000, wrong, 999), "{wrong}");
        }
        let others = self::tokens(&format!("listen {STEER}")).unwrap();
        assert!(!is_signed(&others, 1_000, &signature, 999));
        assert_eq!(
            self::tokens(&format!("control {STEER}")).unwrap().sign(1),
            None
        );
    }

    #[test]
    fn what_is_no_list_of_tokens_is_refused_without_showing_a_secret() {
        for (text, why) in [
            ("", "there is no token"),
            ("# nothing", "there is no token"),
            ("hear hear-hear-hear-hear", "line 1: it must begin with"),
            ("\nlisten", "line 2: there is no token behind"),
            ("listen short-secret", "from 16 to 512"),
            ("listen ümläuteümläuteümläute", "ASCII"),
        ] {
            let error = tokens(text).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(format!("{:?}", both()), "Tokens(2)");
        assert_eq!(format!("{:?}", TokenId::of(HEAR)), "TokenId");
    }

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let error = Tokens::read(Path::new("/dev/zero"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("64 KiB"), "{error}");
    }
}
