//! The checks of one call's token.

use std::time::Duration;

use capsule_proto::{
    KeyId,
    token::{Claims, MAX_LIFETIME, MAX_SKEW},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};

use super::Refusal;

/// No token is later: the last second of the year 9999, in seconds since the epoch.
const LATEST: u64 = 253_402_300_799;

/// What a token must say.
pub(super) struct Expected<'a> {
    pub(super) capsule_id: &'a str,
    pub(super) key_id: &'a KeyId,
    pub(super) method: &'a str,
    /// Seconds since the epoch.
    pub(super) now: u64,
    /// What a token from later than that is.
    pub(super) ahead: Ahead,
}

/// What is made of a token from the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    /// Two clocks that differ, within the skew that is allowed.
    Refused,
    /// It tells what time it is at least.
    Taken,
}

/// What is left to remember of a good token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) jti: u128,
    /// Until it is refused for its age.
    pub(super) lifetime: Duration,
    /// When it was judged, in seconds since the epoch: the clock's time, or its own where that is later
    /// and taken.
    pub(super) at: u64,
}

/// Checks everything but whether it was seen before.
pub(super) fn check(token: &str, key: &DecodingKey, expected: &Expected<'_>) -> Result<Checked, Refusal> {
    let claims = verify(token, key)?;
    if claims.iss != expected.key_id.as_str() {
        return Err(Refusal::Token(format!(
            "its issuer is {}, the connection proves key {}",
            shorten(&claims.iss),
            expected.key_id
        )));
    }
    if claims.aud != expected.capsule_id {
        return Err(Refusal::Audience { named: shorten(&claims.aud), capsule: expected.capsule_id.into() });
    }
    if claims.method != expected.method {
        return Err(Refusal::Method { named: shorten(&claims.method), method: shorten(expected.method) });
    }
    if claims.iat > LATEST {
        return Err(Refusal::Skew { iat: claims.iat, now: expected.now });
    }
    let now = match expected.ahead {
        Ahead::Refused => expected.now,
        Ahead::Taken => expected.now.max(claims.iat),
    };
    check_times(&claims, now)?;
    let jti = u128::from_str_radix(&claims.jti, 16).ok().filter(|_| claims.jti.len() == 32);
    let jti = jti.ok_or_else(|| Refusal::Token("its jti is not 128 bits in hex".into()))?;
    let end = claims.exp.min(claims.iat + MAX_SKEW.as_secs());
    // A second more on top, because whole seconds were compared.
    Ok(Checked { jti, lifetime: Duration::from_secs(end.saturating_sub(now) + 1), at: now })
}

fn verify(token: &str, key: &DecodingKey) -> Result<Claims, Refusal> {
    let mut validation = Validation::new(Algorithm::EdDSA);
    // Compared in `check`, with messages of our own.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Claims>(token, key, &validation).map(|data| data.claims).map_err(|error| {
        Refusal::Token(match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => {
                "it is not signed by the key that the connection proves".into()
            }
            other => format!("{other:?}"),
        })
    })
}

fn check_times(claims: &Claims, now: u64) -> Result<(), Refusal> {
    let Claims { iat, exp, .. } = *claims;
    let lifetime = exp.saturating_sub(iat);
    if lifetime > MAX_LIFETIME.as_secs() || exp <= iat {
        return Err(Refusal::Lifetime(lifetime));
    }
    if exp < now {
        return Err(Refusal::Expired { iat, exp, now });
    }
    if iat.abs_diff(now) > MAX_SKEW.as_secs() {
        return Err(Refusal::Skew { iat, now });
    }
    Ok(())
}

/// Strangers' text in our messages is short and on one line.
fn shorten(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(iat: u64, exp: u64) -> Claims {
        let text = String::new;
        Claims { aud: text(), iss: text(), method: text(), iat, exp, jti: text() }
    }

    #[test]
    fn a_token_from_the_future_is_taken_only_where_the_clock_may_be_behind() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let signing = jsonwebtoken::EncodingKey::from_ed_der(&pair.serialize_der());
        let public: [u8; 32] = pair.public_key_raw().try_into().unwrap();
        let key_id = KeyId::of(&public);
        let year = 31_536_000;
        let claims =
            Claims { iss: key_id.to_string(), jti: "0".repeat(32), ..claims(5 * year, 5 * year + 60) };
        let header = jsonwebtoken::Header::new(Algorithm::EdDSA);
        let token = jsonwebtoken::encode(&header, &claims, &signing).unwrap();
        let checked = |now, ahead| {
            let expected = Expected { capsule_id: "", key_id: &key_id, method: "", now, ahead };
            check(&token, &DecodingKey::from_ed_der(&public), &expected)
        };
        let skew = Refusal::Skew { iat: 5 * year, now: year };
        assert_eq!(checked(year, Ahead::Refused), Err(skew));
        let taken = checked(year, Ahead::Taken).unwrap();
        assert_eq!((taken.at, taken.lifetime), (5 * year, MAX_SKEW + Duration::from_secs(1)));
        // What is behind the floor is as old as ever.
        let old = Refusal::Skew { iat: 5 * year, now: 5 * year + 31 };
        assert_eq!(checked(5 * year + 31, Ahead::Taken), Err(old));
    }

    #[test]
    fn the_times_of_a_token_are_held_against_the_capsules_clock() {
        let now = 1_000_000;
        assert_eq!(check_times(&claims(now, now + 60), now), Ok(()));
        assert_eq!(check_times(&claims(now - 30, now), now), Ok(()));
        assert_eq!(check_times(&claims(now, now + 61), now), Err(Refusal::Lifetime(61)));
        assert_eq!(check_times(&claims(now, now), now), Err(Refusal::Lifetime(0)));
        let iat = now + 31;
        assert_eq!(check_times(&claims(iat, iat + 1), now), Err(Refusal::Skew { iat, now }));
        let iat = now - 31;
        assert_eq!(check_times(&claims(iat, iat + 60), now), Err(Refusal::Skew { iat, now }));
        let (iat, exp) = (now - 10, now - 1);
        assert_eq!(check_times(&claims(iat, exp), now), Err(Refusal::Expired { iat, exp, now }));
    }

    #[test]
    fn a_skew_message_states_both_clocks_and_the_difference() {
        let text = Refusal::Skew { iat: 1_700_000_090, now: 1_700_000_000 }.to_string();
        assert!(text.contains("differ by 90 s"), "{text}");
        assert!(text.contains("2023-11-14T22:14:50Z") && text.contains("2023-11-14T22:13:20Z"), "{text}");
    }
}
