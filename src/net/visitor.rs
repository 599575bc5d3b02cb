//! Who asks, and whether they may: tokens, signed links, where a page comes from, and by what their
//! places are counted.

use super::Lobby;
use super::forwarded;
use super::http::Refusal;
use super::places::Who;
use crate::access::{Role, TokenId};
use axum::extract::{Extension, FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap};
use axum::http::request::Parts;
use serde::Deserialize;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names that a browser on this machine knows it by: another one in `Host` is a page's own name for
/// us (DNS rebinding).
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What a request says of whoever sent it.
#[derive(Debug)]
pub(super) struct Visitor {
    headers: HeaderMap,
    peer: Option<IpAddr>,
    link: Option<Link>,
}

/// The query of a link that `longwave link` has made.
#[derive(Debug, Deserialize)]
struct Link {
    expires: u64,
    signature: String,
}

/// Where a connection comes from; every request on it carries it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl FromRequestParts<Arc<Lobby>> for Visitor {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        lobby: &Arc<Lobby>,
    ) -> Result<Self, Self::Rejection> {
        let link = Query::<Link>::from_request_parts(parts, lobby).await;
        let peer = Extension::<Peer>::from_request_parts(parts, lobby).await;
        Ok(Self {
            headers: parts.headers.clone(),
            peer: peer.ok().map(|Extension(Peer(address))| address.ip()),
            link: link.ok().map(|Query(link)| link),
        })
    }
}

impl Visitor {
    /// By what this one's places are counted in `lobby`, once it is admitted.
    pub(super) fn who(&self, lobby: &Lobby) -> Who {
        let proxies = &lobby.settings.trusted_proxies;
        // Only who comes from this machine itself is of it: that a client did, a proxy may have been told.
        let own = |peer: IpAddr| Some(peer).filter(|peer| !peer.to_canonical().is_loopback());
        let address = |peer| forwarded::client(peer, &self.headers, proxies).or_else(|| own(peer));
        let tokens = &lobby.settings.tokens;
        let known = |token: &&str| tokens.role_of(token).is_some();
        let token = self.token().filter(known).map(TokenId::of);
        Who {
            address: self.peer.and_then(address),
            token: token.or_else(|| lobby.signer(self)),
        }
    }

    fn token(&self) -> Option<&str> {
        let value = self.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    fn host(&self) -> Option<&str> {
        self.headers.get(header::HOST)?.to_str().ok()
    }

    /// Where a browser says that a page comes from; other programs do not, and are welcome.
    fn origin(&self) -> Option<&str> {
        let origin = self.headers.get(header::ORIGIN)?;
        Some(origin.to_str().unwrap_or("an unreadable origin"))
    }

    fn is_ours(&self, origin: &str) -> bool {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        matches!((authority, self.host()), (Some(a), Some(h)) if a.eq_ignore_ascii_case(h))
    }

    /// A program on this machine that speaks to us itself, and no other site's page or proxy speaks through it.
    fn is_here(&self) -> bool {
        let host = self.host().unwrap_or_default();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
            _ => host,
        };
        let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
        // Another site's page may show an image of ours, and names no `Origin` for that.
        let site = self.headers.get("sec-fetch-site");
        self.peer
            .is_some_and(|peer| peer.to_canonical().is_loopback())
            && HERE.contains(&name)
            && site.is_none_or(|site| site == "same-origin" || site == "none")
            && self.origin().is_none_or(|origin| self.is_ours(origin))
            && forwarded
                .iter()
                .all(|name| !self.headers.contains_key(*name))
    }
}

impl Lobby {
    /// Refuses who may not do what `role` may.
    pub(super) fn admit(&self, visitor: &Visitor, role: Role) -> Result<(), Refusal> {
        let judged = self.judge(visitor, role);
        if let Err(Refusal(StatusCode::UNAUTHORIZED, _)) = &judged {
            self.telemetry.net.unauthorized.add(1);
        }
        judged
    }

    /// Whether somebody may do what `role` may, who has not tried to.
    pub(super) fn judge(&self, visitor: &Visitor, role: Role) -> Result<(), Refusal> {
        self.check_origin(visitor)?;
        let tokens = &self.settings.tokens;
        // Who may control may have a session.
        let is_guarded =
            tokens.guard(role) || (role == Role::Session && tokens.guard(Role::Control));
        if !is_guarded {
            return match role {
                Role::Listen => Ok(()),
                Role::Session | Role::Control if visitor.is_here() => Ok(()),
                Role::Session => Err(Refusal(
                    StatusCode::FORBIDDEN,
                    "without a token for sessions in the settings only this machine's own programs may \
                     have one"
                        .into(),
                )),
                Role::Control => Err(Refusal(
                    StatusCode::FORBIDDEN,
                    "without a control token in the settings only this machine's own programs may \
                     control the stations"
                        .into(),
                )),
            };
        }
        if role == Role::Listen && self.signer(visitor).is_some() {
            return Ok(());
        }
        match visitor.token().and_then(|token| tokens.role_of(token)) {
            Some(proved) if proved >= role => Ok(()),
            Some(proved) => Err(Refusal(
                StatusCode::FORBIDDEN,
                format!(
                    "this token is one to {}, not to {}",
                    proved.name(),
                    role.name()
                ),
            )),
            None => Err(Refusal(
                StatusCode::UNAUTHORIZED,
                format!(
                    "a token to {} is wanted: `Authorization: Bearer TOKEN`, or a link that has not expired",
                    role.name()
                ),
            )),
        }
    }

    /// The token that has signed the visitor's link, if that is still good.
    fn signer(&self, visitor: &Visitor) -> Option<TokenId> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_s = now.map_or(u64::MAX, |since| since.as_secs());
        let link = visitor.link.as_ref()?;
        let tokens = &self.settings.tokens;
        tokens.signer(link.expires, &link.signature, now_s)
    }

    fn check_origin(&self, visitor: &Visitor) -> Result<(), Refusal> {
        let Some(origin) = visitor.origin() else {
            return Ok(());
        };
        let allowed = &self.settings.allowed_origins;
        if visitor.is_ours(origin) || allowed.iter().any(|known| known == "*" || known == origin) {
            return Ok(());
        }
        let sentence = format!(
            "pages of {origin} may not listen here; the settings can name it among the allowed origins"
        );
        Err(Refusal(StatusCode::FORBIDDEN, sentence))
    }
}
