//! `link`: an address with which somebody may listen for a while.

use std::time::{SystemTime, UNIX_EPOCH};

use longwave::access::{Tokens, TokensError};

use super::args::serve::LinkArgs;
use super::exit::Outcome;

/// Prints it.
pub fn run(args: &LinkArgs) -> Outcome {
    let tokens = Tokens::read(&args.tokens)?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let expires_s = now_s + (args.hours * 3_600.0) as u64;
    let signature = tokens.sign(expires_s);
    let signature = signature.ok_or_else(|| TokensError::Empty(args.tokens.clone()))?;
    println!("{}", linked(&args.url, expires_s, &signature));
    Ok(())
}

fn linked(url: &str, expires_s: u64, signature: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}expires={expires_s}&signature={signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_what_the_address_asked_for() {
        let plain = linked("http://a/", 7, "ab");
        assert_eq!(plain, "http://a/?expires=7&signature=ab");
        let asked = linked("http://a/s?format=f32", 7, "ab");
        assert_eq!(asked, "http://a/s?format=f32&expires=7&signature=ab");
    }
}
