//! Who stands behind a proxy: `X-Forwarded-For`, as far as it can be believed.
//!
//! Every proxy adds at the right whom it was asked by; what stands further left the one who asked may
//! have made up. So the list is read from the right, for as long as those who wrote it are trusted.

use axum::http::header::HeaderMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// Whom a request comes from that has come from `peer`, if a trusted proxy says so: the nearest that is none
/// of the trusted `proxies`.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |hop: &IpAddr| proxies.iter().any(|net| net.contains(hop));
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    // By bytes: a client's own, which need be no text, may stand in one line with a proxy's.
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = None;
    for hop in hops {
        if !is_trusted(&client.unwrap_or(peer.to_canonical())) {
            break;
        }
        let Some(hop) = address(hop) else {
            break;
        };
        client = Some(hop);
    }
    client
}

/// With or without a port, which some proxies add.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let with_port = || hop.parse().ok().map(|hop: SocketAddr| hop.ip());
    let address = hop.parse().ok().or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::HeaderValue;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What lines of the header make of somebody at `peer`, if 10.0.0.0/8 and ::1 are proxies.
    fn behind(peer: &str, lines: &[&str]) -> IpAddr {
        let proxies = ["10.0.0.0/8", "::1/128"].map(|net| net.parse::<IpNet>().unwrap());
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append("x-forwarded-for", line);
        }
        client(ip(peer), &headers, &proxies).unwrap_or(ip(peer).to_canonical())
    }

    #[test]
    fn a_trusted_proxys_word_counts_and_nobody_elses() {
        let real = ip("203.0.113.7");
        let cases: [(&str, &[&str]); 13] = [
            ("203.0.113.7", &[]),
            // Not one of ours: whatever it says, it speaks for itself.
            ("203.0.113.7", &["198.51.100.1"]),
            ("::ffff:203.0.113.7", &["10.0.0.1"]),
            ("10.0.0.1", &["203.0.113.7"]),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.7"]),
            ("::1", &["203.0.113.7:51000"]),
            // What the client itself has sent stands at the left, in the same line or another.
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7"]),
            ("10.0.0.1", &["198.51.100.1", "203.0.113.7"]),
            ("10.0.0.1", &["10.0.0.9, 127.0.0.1,203.0.113.7"]),
            ("10.0.0.1", &["\"; drop, 203.0.113.7"]),
            ("10.0.0.1", &["é, 203.0.113.7"]),
            // Two proxies of ours, one behind the other.
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7, 10.0.0.2"]),
            ("10.0.0.1", &["203.0.113.7", "10.0.0.2"]),
        ];
        for (peer, lines) in cases {
            assert_eq!(behind(peer, lines), real, "{peer} {lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_not_looked_behind() {
        for lines in [
            &["198.51.100.1, unknown"][..],
            &[""],
            &["203.0.113.7, "],
            &[],
        ] {
            assert_eq!(behind("10.0.0.1", lines), ip("10.0.0.1"), "{lines:?}");
        }
        let inside = behind("10.0.0.1", &["198.51.100.1, é, 10.0.0.2"]);
        assert_eq!(inside, ip("10.0.0.2"));
        assert_eq!(behind("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), ip("10.0.0.3"));
    }
}
