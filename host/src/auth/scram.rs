//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the stored keys, and the server's side of an exchange.
//!
//! Sans-IO and pure: nonces and keys come as arguments. No channel binding is offered, so `n` and `y` are taken and
//! `p=` is refused. A user that does not exist gets keys that look like any other's and fail at the proof, like a
//! wrong password.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::sasl::Failure;

/// PBKDF2 iterations of new keys. RFC 7677 §4 demands 4,096; whoever steals the file must pay these for each guess,
/// and a client pays them once for each login (some 30 ms).
pub const ITERATIONS: u32 = 100_000;
/// RFC 7677 §4.
pub const ITERATIONS_MIN: u32 = 4_096;
/// More would let a users file stall every client for minutes.
pub const ITERATIONS_MAX: u32 = 10_000_000;
/// Bytes of a new salt.
pub const SALT_BYTES: usize = 16;
/// Bytes of randomness in the server's part of the nonce.
const NONCE_BYTES: usize = 18;

/// What the server keeps of a password: enough to check it, not enough to log in elsewhere (RFC 5803).
#[derive(Clone, PartialEq, Eq)]
pub struct StoredKeys {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl StoredKeys {
    /// Derives the keys of a password that went through SASLprep. Costs [`ITERATIONS`] of PBKDF2.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> StoredKeys {
        let salted: Zeroizing<[u8; 32]> = Zeroizing::new(pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(
            password.as_bytes(),
            salt,
            iterations,
        ));
        let client_key = Zeroizing::new(hmac(salted.as_slice(), b"Client Key"));
        StoredKeys {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key.as_slice()).into(),
            server_key: hmac(salted.as_slice(), b"Server Key"),
        }
    }

    /// Keys of nobody: the same for the same name as long as the secret is, and no password fits them.
    pub fn decoy(name: &str, secret: &[u8; 32]) -> StoredKeys {
        let part = |label: &[u8]| hmac(secret, &[label, name.as_bytes()].concat());
        StoredKeys {
            iterations: ITERATIONS,
            salt: part(b"salt:")[..SALT_BYTES].to_vec(),
            stored_key: part(b"stored:"),
            server_key: part(b"server:"),
        }
    }
}

impl fmt::Display for StoredKeys {
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` (RFC 5803 §2).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredKeys(..)")
    }
}

impl FromStr for StoredKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<StoredKeys, String> {
        const SHAPE: &str = "SCRAM keys read SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY";
        let parts = text.strip_prefix("SCRAM-SHA-256$").and_then(|rest| {
            let (salted, keys) = rest.split_once('$')?;
            Some((salted.split_once(':')?, keys.split_once(':')?))
        });
        let ((iterations, salt), (stored, server)) = parts.ok_or(SHAPE)?;
        let iterations: u32 = iterations.parse().map_err(|_| SHAPE)?;
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
            return Err(format!(
                "{iterations} SCRAM iterations are not within {ITERATIONS_MIN} and {ITERATIONS_MAX}"
            ));
        }
        let salt = BASE64.decode(salt).map_err(|_| "the SCRAM salt is not base64")?;
        if salt.is_empty() {
            return Err("the SCRAM salt is empty".to_owned());
        }
        let key = |text: &str| {
            BASE64
                .decode(text)
                .ok()
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        };
        let wrong = "a SCRAM key is 32 bytes in base64";
        Ok(StoredKeys {
            iterations,
            salt,
            stored_key: key(stored).ok_or(wrong)?,
            server_key: key(server).ok_or(wrong)?,
        })
    }
}

/// An exchange that has sent its server-first message and waits for the client's proof.
pub struct Scram {
    keys: StoredKeys,
    /// `c=` must repeat the GS2 header in base64.
    binding: String,
    nonce: String,
    /// client-first-bare and server-first, as AuthMessage begins.
    so_far: String,
}

/// A client-first message that is well formed.
pub struct ClientFirst<'m> {
    /// The user's name, out of its escapes.
    pub name: String,
    /// Whom the client wants to act as.
    pub authzid: Option<String>,
    gs2_header: &'m str,
    bare: &'m str,
    nonce: &'m str,
}

impl<'m> ClientFirst<'m> {
    /// `gs2-cbind-flag "," [a=authzid] "," n=name "," r=nonce [extensions]` (RFC 5802 §7).
    pub fn parse(message: &'m [u8]) -> Result<ClientFirst<'m>, Failure> {
        let message = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Failure::Malformed);
        };
        // `p=` asks for a channel binding, which was not offered.
        if flag != "n" && flag != "y" {
            return Err(Failure::Malformed);
        }
        let authzid = match authzid {
            "" => None,
            text => Some(unescape(text.strip_prefix("a=").ok_or(Failure::Malformed)?)?),
        };
        // A mandatory extension (`m=`) must be refused when it is unknown, and begins where the name must begin.
        let mut attributes = bare.split(',');
        let name = attributes
            .next()
            .and_then(|text| text.strip_prefix("n="))
            .ok_or(Failure::Malformed)?;
        let nonce = attributes
            .next()
            .and_then(|text| text.strip_prefix("r="))
            .ok_or(Failure::Malformed)?;
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Malformed);
        }
        let gs2_header = &message[..message.len() - bare.len()];
        Ok(ClientFirst {
            name: unescape(name)?,
            authzid,
            gs2_header,
            bare,
            nonce,
        })
    }
}

impl Scram {
    /// The exchange after a client-first message, and the server-first message that answers it.
    pub fn start(first: &ClientFirst<'_>, keys: StoredKeys, server_nonce: &str) -> (Scram, String) {
        let nonce = format!("{}{server_nonce}", first.nonce);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&keys.salt), keys.iterations);
        let so_far = format!("{},{server_first}", first.bare);
        let scram = Scram {
            keys,
            binding: BASE64.encode(first.gs2_header),
            nonce,
            so_far,
        };
        (scram, server_first)
    }

    /// Checks a client-final message. Returns the server-final one, by which the server proves itself.
    pub fn finish(self, message: &[u8]) -> Result<String, Failure> {
        let message = std::str::from_utf8(message).map_err(|_| Failure::Malformed)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Failure::Malformed)?;
        let proof = BASE64.decode(proof).map_err(|_| Failure::Malformed)?;
        let proof: [u8; 32] = proof.try_into().map_err(|_| Failure::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes
            .next()
            .and_then(|text| text.strip_prefix("c="))
            .ok_or(Failure::Malformed)?;
        let nonce = attributes
            .next()
            .and_then(|text| text.strip_prefix("r="))
            .ok_or(Failure::Malformed)?;
        if binding != self.binding || nonce != self.nonce {
            return Err(Failure::Credentials);
        }
        let auth_message = format!("{},{without_proof}", self.so_far);
        let mut client_key = hmac(&self.keys.stored_key, auth_message.as_bytes());
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        let stored: [u8; 32] = Sha256::digest(client_key).into();
        if !bool::from(stored.ct_eq(&self.keys.stored_key)) {
            return Err(Failure::Credentials);
        }
        Ok(format!(
            "v={}",
            BASE64.encode(hmac(&self.keys.server_key, auth_message.as_bytes()))
        ))
    }
}

/// A nonce for [`Scram::start`]; base64 has no comma.
pub fn server_nonce() -> String {
    BASE64.encode(super::hash::random::<NONCE_BYTES>())
}

/// `=2C` is a comma and `=3D` an equals sign; no other `=` may be there (RFC 5802 §5.1).
fn unescape(text: &str) -> Result<String, Failure> {
    let mut parts = text.split('=');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(Failure::Malformed),
        };
        plain.push(character);
        plain.push_str(rest);
    }
    if plain.is_empty() {
        Err(Failure::Malformed)
    } else {
        Ok(plain)
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FINAL: &str =
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn exchange(first: &str, last: &str) -> Result<String, Failure> {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = StoredKeys::derive("pencil", &salt, 4096);
        let first = ClientFirst::parse(first.as_bytes())?;
        let (scram, server_first) = Scram::start(&first, keys, SERVER_NONCE);
        assert!(server_first.ends_with(",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        scram.finish(last.as_bytes())
    }

    /// RFC 7677 §3.
    #[test]
    fn the_example_of_the_rfc() {
        let server_final = exchange(CLIENT_FIRST, CLIENT_FINAL);
        assert_eq!(server_final.unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn what_is_refused() {
        let cases = [
            ("channel binding", "p=tls-unique,,n=user,r=x", "", Failure::Malformed),
            ("mandatory extension", "n,,m=x,n=user,r=x", "", Failure::Malformed),
            ("no name", "n,,n=,r=x", "", Failure::Malformed),
            ("bad escape", "n,,n=us=2Der,r=x", "", Failure::Malformed),
            ("no nonce", "n,,n=user,r=", "", Failure::Malformed),
            ("one part", "n", "", Failure::Malformed),
            ("no proof", CLIENT_FIRST, "c=biws,r=x", Failure::Malformed),
            ("short proof", CLIENT_FIRST, "c=biws,r=x,p=AAAA", Failure::Malformed),
            (
                "other header",
                CLIENT_FIRST,
                &CLIENT_FINAL.replace("biws", "eSws"),
                Failure::Credentials,
            ),
            (
                "other nonce",
                CLIENT_FIRST,
                &CLIENT_FINAL.replace("%hv", "%hw"),
                Failure::Credentials,
            ),
            (
                "other proof",
                CLIENT_FIRST,
                &CLIENT_FINAL.replace("dHz", "dHy"),
                Failure::Credentials,
            ),
            (
                "header changed underway",
                &CLIENT_FIRST.replace("n,,", "y,,"),
                CLIENT_FINAL,
                Failure::Credentials,
            ),
        ];
        for (what, first, last, expected) in cases {
            assert_eq!(exchange(first, last), Err(expected), "{what}");
        }
    }

    #[test]
    fn names_are_unescaped() {
        let first = ClientFirst::parse(b"y,a=o=3Do,n=a=2Cb,r=x,ext=1").unwrap();
        assert_eq!((first.name.as_str(), first.authzid.as_deref()), ("a,b", Some("o=o")));
    }

    #[test]
    fn keys_read_back_and_bad_ones_say_why() {
        let keys = StoredKeys::derive("pencil", b"0123456789abcdef", 4096);
        assert_eq!(keys.to_string().parse::<StoredKeys>().unwrap(), keys);
        for (text, expected) in [
            ("", "SCRAM keys read SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY"),
            (
                "SCRAM-SHA-256$100:AAAA$AAAA:AAAA",
                "100 SCRAM iterations are not within 4096 and 10000000",
            ),
            ("SCRAM-SHA-256$4096:$AAAA:AAAA", "the SCRAM salt is empty"),
            ("SCRAM-SHA-256$4096:!$AAAA:AAAA", "the SCRAM salt is not base64"),
            ("SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "a SCRAM key is 32 bytes in base64"),
        ] {
            assert_eq!(text.parse::<StoredKeys>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_decoy_is_steady_and_looks_like_a_user() {
        let decoy = StoredKeys::decoy("nobody", &[7; 32]);
        assert_eq!(decoy, StoredKeys::decoy("nobody", &[7; 32]));
        assert_ne!(decoy.salt, StoredKeys::decoy("nobody2", &[7; 32]).salt);
        assert_eq!((decoy.salt.len(), decoy.iterations), (SALT_BYTES, ITERATIONS));
    }
}
