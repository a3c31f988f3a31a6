//! Waiting for somebody outside: a token is given away, and whoever brings it back brings the answer.

use std::{fmt, str::FromStr};

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    Hold, Store, StoreError,
    keys::Keys,
    script::{CALL_BACK, EXPECT_CALLBACK},
};
use crate::name::QueueName;

/// The largest payload of a callback, in bytes of JSON.
pub const MAX_CALLBACK_BYTES: usize = 64 * 1024;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 32 bytes in base64url without padding.
const SECRET_LENGTH: usize = 43;

/// What an outside system brings back to continue a parked job: `<queue>.<43 characters>`. Whoever has it can continue the job,
/// so it is a secret; Redis and Postgres hold its digest only.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackToken(String);

/// A text that is no token. It does not say what was given: that may be a secret with a typing error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no callback token: give it as it was handed out, the queue, a dot and 43 characters")]
pub struct InvalidToken;

impl CallbackToken {
    /// A token of 256 random bits.
    #[must_use]
    pub fn new(queue: &QueueName, random: [u8; 32]) -> Self {
        let mut text = format!("{queue}.");
        for chunk in random.chunks(3) {
            let number =
                chunk.iter().fold(0, |number, &byte| (number << 8) | u32::from(byte)) << (8 * (3 - chunk.len()));
            for shift in [18, 12, 6, 0].iter().take(chunk.len() + 1) {
                text.push(char::from(ALPHABET[usize::try_from(number >> shift & 63).expect("six bits")]));
            }
        }
        Self(text)
    }

    /// The queue in which the job waits.
    ///
    /// # Panics
    /// Never: a token is made of a queue's name, or was checked when it was read.
    #[must_use]
    pub fn queue(&self) -> QueueName {
        let (queue, _) = self.0.rsplit_once('.').expect("a token has a dot");
        QueueName::new(queue).expect("checked when it was read")
    }

    /// What stores hold of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(self.0.as_bytes())[..16]);
        TokenDigest(digest)
    }

    /// The secret itself, to hand it out.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CallbackToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (queue, secret) = text.rsplit_once('.').ok_or(InvalidToken)?;
        let readable = secret.len() == SECRET_LENGTH && secret.bytes().all(|byte| ALPHABET.contains(&byte));
        if readable && QueueName::new(queue).is_ok() { Ok(Self(text.to_owned())) } else { Err(InvalidToken) }
    }
}

impl fmt::Debug for CallbackToken {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (queue, _) = self.0.rsplit_once('.').unwrap_or_default();
        write!(f, "CallbackToken({queue}.…)")
    }
}

/// 16 bytes that stand for a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TokenDigest(pub [u8; 16]);

/// What a wait for a callback came to.
#[derive(Debug)]
pub enum CalledBack {
    /// It came.
    Payload(Box<RawValue>),
    /// It did not come in time.
    TimedOut,
}

impl CalledBack {
    /// Reads what Redis holds of a wait; `None` while it is open.
    pub(super) fn decode(wait: &[u8]) -> Result<Option<Self>, StoreError> {
        let unreadable = || StoreError::Unreadable("a callback");
        match (wait.first(), wait.get(17..)) {
            (Some(b'w'), Some(_)) => Ok(None),
            (Some(b't'), Some(_)) => Ok(Some(Self::TimedOut)),
            (Some(b'p' | b's'), Some(payload)) => {
                serde_json::from_slice(payload).map(|payload| Some(Self::Payload(payload))).map_err(|_| unreadable())
            }
            _ => Err(unreadable()),
        }
    }
}

/// What somebody who calls back is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Callback {
    /// It is stored, and the job goes on.
    Delivered,
    /// Another came before; that one counts.
    Duplicate,
    /// The deadline was over; the job went on without it.
    Late,
    /// No job waits for this token: it was never given out, was replaced by another, or its job is over.
    Unknown,
}

impl Store {
    /// Makes known that a running job is to be called back under a token, before the token is given away. A job has one open
    /// token: a new one replaces the old. The same one again changes nothing. `false` if the job is no longer held, or the token
    /// is another job's.
    ///
    /// # Errors
    /// When Redis is away.
    pub async fn expect_callback(&self, hold: &Hold, token: TokenDigest) -> Result<bool, StoreError> {
        let mut call = hold.call(&EXPECT_CALLBACK, self);
        call.arg(&token.0);
        self.run_fenced(&EXPECT_CALLBACK, &call).await
    }

    /// Stores the answer for which a job waits. A parked job is ready at once; one that still runs finds it when it parks.
    ///
    /// # Errors
    /// When the payload is larger than [`MAX_CALLBACK_BYTES`], or Redis is away: asking again is safe, and is answered with
    /// [`Callback::Duplicate`] if the first one arrived.
    pub async fn call_back(
        &self,
        queue: &QueueName,
        token: TokenDigest,
        payload: &RawValue,
    ) -> Result<Callback, StoreError> {
        let bytes = payload.get().len();
        if bytes > MAX_CALLBACK_BYTES {
            return Err(StoreError::Invalid(format!(
                "the callback has {bytes} bytes, more than {MAX_CALLBACK_BYTES}: send a reference to what is larger"
            )));
        }
        let mut call = CALL_BACK.call(&Keys::new(queue), None, self.clock());
        call.arg(&token.0).arg(payload.get());
        let code: String = self.link().run(&CALL_BACK, &call).await?;
        match &*code {
            "delivered" => Ok(Callback::Delivered),
            "duplicate" => Ok(Callback::Duplicate),
            "late" => Ok(Callback::Late),
            "unknown" => Ok(Callback::Unknown),
            _ => Err(StoreError::Unreadable("an answer to call_back")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_token_survives_the_way_through_a_url_and_never_shows_in_logs() {
        let queue = QueueName::new("scoring.slow").unwrap();
        let random: [u8; 32] = std::array::from_fn(|i| u8::try_from(251 - 7 * i).unwrap());
        let token = CallbackToken::new(&queue, random);
        let text = token.as_str();
        assert_eq!(text, "scoring.slow.-_Tt5t_Y0crDvLWup6CZkouEfXZvaGFaU0xFPjcwKSI");
        let again: CallbackToken = text.parse().unwrap();
        assert_eq!((again.queue(), again.digest()), (queue.clone(), token.digest()));
        assert_eq!(format!("{token:?}"), "CallbackToken(scoring.slow.…)");
        assert_ne!(token.digest(), CallbackToken::new(&queue, [0; 32]).digest());
        let elsewhere = CallbackToken::new(&QueueName::from_static("other"), random);
        assert_ne!(token.digest(), elsewhere.digest(), "a token opens nothing in another queue");
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let good = CallbackToken::new(&QueueName::from_static("q"), [7; 32]).as_str().to_owned();
        let cut = &good[..good.len() - 1];
        let long = format!("{good}A");
        for bad in ["", "q", ".", "q.", cut, &long, &good.replace("q.", "}."), &good.replace('B', "+")] {
            let error = bad.parse::<CallbackToken>().unwrap_err().to_string();
            assert!(bad.len() < 3 || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn damaged_waits_are_an_error() {
        let digest = [1; 16];
        let wait = |state: &[u8], payload: &[u8]| [state, &digest, payload].concat();
        assert!(CalledBack::decode(&wait(b"w", b"")).unwrap().is_none());
        assert!(matches!(CalledBack::decode(&wait(b"t", b"")).unwrap(), Some(CalledBack::TimedOut)));
        for bad in [wait(b"p", b"{"), wait(b"x", b""), b"p".to_vec(), Vec::new()] {
            assert!(CalledBack::decode(&bad).is_err(), "{bad:?}");
        }
    }
}
