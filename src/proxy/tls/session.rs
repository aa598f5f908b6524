//! An established session: splits ciphertext into records, opens and seals them, and obeys what the
//! client's TLS says in between.
//!
//! **Promises.** It holds nothing of a peer's bytes. What carries no data, and costs us something, is
//! allowed a few times a second: empty records, warnings, key updates; renegotiation once. A key seals no more
//! records than its cipher allows (RFC 8446 section 5.5): TLS 1.3 gets the next one, TLS 1.2 has none.
//!
//! **Not here.** The handshake (`negotiation.rs`), ciphers and nonces (`keys.rs`), sockets
//! (`stream.rs`).

use std::mem;
use std::ops::Range;
use std::sync::LazyLock;

use tokio::time::Instant;
use tokio_rustls::rustls::{
    AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    ProtocolVersion,
};

use super::alert;
use super::keys::{Keys, NextKeys, OpenedRecord, Opener, SealedRecord, Sealer};

/// What stands before each record: its type, a version, its length. RFC 8446 section 5.1.
const HEADER_BYTES: usize = 5;

/// The plaintext of one record, RFC 8446 section 5.1.
const MAX_PLAIN_BYTES: usize = 16 * 1024;

/// The ciphertext of one record of TLS 1.2, RFC 5246 section 6.2.3.
const MAX_SEALED_BYTES_TLS12: usize = MAX_PLAIN_BYTES + 2048;

/// The ciphertext of one record of TLS 1.3, RFC 8446 section 5.2.
const MAX_SEALED_BYTES_TLS13: usize = MAX_PLAIN_BYTES + 256;

/// The longest ClientHello that may ask to renegotiate: the limit of rustls for handshake messages.
const MAX_MESSAGE_BYTES: u32 = 0xffff;

/// Replies that one read may queue, beyond which a request to renegotiate is ignored (RFC 5246
/// section 7.2.2 allows that): its sender does not read them.
const MAX_REPLY_BYTES: usize = 1024;

/// A key_update that does not ask for another: RFC 8446 section 4.6.3.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// The levels of alerts: RFC 8446 section 6.
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The server side of one TLS session after its handshake.
pub(crate) struct Session {
    opener: Opener,
    sealer: Sealer,
    /// Records that one key may seal at most.
    max_sealed: u64,
    /// The source of the next keys of TLS 1.3; TLS 1.2 has none.
    tls13: Option<Box<NextKeys>>,
    message: PartialMessage,
    allowances: Allowances,
    /// The client has a new key and wants us to have one, before we send on.
    key_update_due: bool,
    peer_closed: bool,
    /// We have said a close_notify or a fatal alert.
    ended: bool,
}

/// Why plaintext could not be sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// TLS 1.2 has used up its key; the plaintext is lost.
    #[error("the TLS 1.2 session has used up its key")]
    KeysExhausted,
    /// The cipher failed: a fault of ours.
    #[error("plaintext could not be sealed: {0}")]
    Misuse(Error),
}

/// What of a message after the handshake has come: just what tells what it is about.
#[derive(Default)]
struct PartialMessage {
    /// Its type and its length, RFC 8446 section 4.
    head: [u8; 4],
    /// How much of them has come.
    have: u8,
    /// How much is still to come behind them.
    left: u32,
    /// The last byte that has come behind them: what a key_update asks for.
    last: u8,
}

/// Remaining budget for records that carry no data. The limits are those of rustls and BoringSSL, but
/// theirs are for a connection: ours are given back by application data and with time, since devices stay
/// for weeks and some only listen.
struct Allowances {
    empty_records: u8,
    warnings: u8,
    renegotiations: u8,
    key_updates: u8,
    /// When they were last given back, by [`clock`].
    since: u32,
}

impl Allowances {
    const FULL: Self =
        Self { empty_records: 32, warnings: 4, renegotiations: 1, key_updates: 32, since: 0 };

    /// How often they are given back, in milliseconds. A flood spends them within one.
    const INTERVAL: u32 = 1000;

    /// Gives all back, if an interval has passed.
    fn refill_by_time(&mut self) {
        let now = clock();
        if now.wrapping_sub(self.since) >= Self::INTERVAL {
            self.refill_at(now);
        }
    }

    const fn refill_at(&mut self, since: u32) {
        *self = Self { since, ..Self::FULL };
    }
}

/// Milliseconds since the first call. They start again after 49 days: differences count.
#[expect(clippy::cast_possible_truncation, reason = "differences count, however often it wraps")]
fn clock() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u32
}

impl Session {
    /// Returns a session with the keys of a handshake.
    pub(super) fn new(keys: Keys) -> Self {
        let Keys { opener, sealer, max_sealed, next } = keys;
        Self {
            opener,
            sealer,
            max_sealed,
            tls13: next,
            message: PartialMessage::default(),
            allowances: Allowances { since: clock(), ..Allowances::FULL },
            key_update_due: false,
            peer_closed: false,
            ended: false,
        }
    }

    /// Whether the peer has ended its stream by a close_notify.
    pub(crate) const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Opens the whole records of `incoming` where they lie and returns how many bytes at its end make
    /// none yet. Their plaintext is moved together; `plain`, empty before, tells where. Appends what
    /// TLS itself has to say to `reply`.
    ///
    /// # Errors
    /// When the session is over; [`Self::last_words`] has the alert to send. `plain` is good.
    pub(crate) fn open(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Range<usize>,
        reply: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let start = incoming.as_ptr().addr();
        let mut at = 0;
        // "Any data received after a closure alert has been received MUST be ignored", RFC 8446
        // section 6.1.
        while !self.peer_closed {
            let Some(record) = next_record(&mut incoming[at..], self.max_sealed_bytes())? else {
                return Ok(incoming.len() - at);
            };
            at += HEADER_BYTES + record.payload.len();
            if self.tls13.is_some() && record.kind != ContentType::ApplicationData {
                // TLS 1.3 seals the type as well, and says this outside: RFC 8446 section 5.2.
                return Err(inappropriate(record.kind));
            }
            let opened = self.opener.open(record)?;
            self.process(&opened, reply)?;
            if opened.kind == ContentType::ApplicationData && !opened.payload.is_empty() {
                let from = opened.payload.as_ptr().addr() - start;
                let more = from..from + opened.payload.len();
                join(incoming, plain, more);
            }
        }
        Ok(0)
    }

    /// The longest ciphertext of a record.
    const fn max_sealed_bytes(&self) -> usize {
        if self.tls13.is_some() { MAX_SEALED_BYTES_TLS13 } else { MAX_SEALED_BYTES_TLS12 }
    }

    /// Obeys a record; its data is the caller's.
    fn process(&mut self, record: &OpenedRecord<'_>, reply: &mut Vec<u8>) -> Result<(), Error> {
        if self.message.have > 0 && record.kind != ContentType::Handshake {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        if record.payload.is_empty() {
            // RFC 8446 section 5.4, RFC 5246 section 6.2.1.
            if record.kind != ContentType::ApplicationData {
                return Err(inappropriate(record.kind));
            }
            self.allowances.refill_by_time();
            return spend(
                &mut self.allowances.empty_records,
                PeerMisbehaved::TooManyEmptyFragments,
            );
        }
        self.allowances.empty_records = Allowances::FULL.empty_records;
        match record.kind {
            ContentType::ApplicationData => {
                self.allowances.refill_at(self.allowances.since);
                Ok(())
            }
            ContentType::Alert => self.process_alert(record.payload),
            ContentType::Handshake => self.process_handshake(record.payload, reply),
            unexpected => Err(inappropriate(unexpected)),
        }
    }

    /// RFC 8446 section 6, RFC 5246 section 7.2.
    fn process_alert(&mut self, alert: &[u8]) -> Result<(), Error> {
        let &[level, description] = alert else {
            return Err(InvalidMessage::MissingData("Alert").into());
        };
        if !matches!(level, WARNING | FATAL) {
            return Err(alert::UNKNOWN_LEVEL.into());
        }
        let description = AlertDescription::from(description);
        if description == AlertDescription::CloseNotify {
            self.peer_closed = true;
            return Ok(());
        }
        // TLS 1.3 takes all others for fatal, whatever they say of themselves.
        let harmless = self.tls13.is_none() || description == AlertDescription::UserCanceled;
        if level == WARNING && harmless {
            self.allowances.refill_by_time();
            return spend(
                &mut self.allowances.warnings,
                PeerMisbehaved::TooManyWarningAlertsReceived,
            );
        }
        Err(Error::AlertReceived(description))
    }

    /// Takes messages after the handshake, which may be split over records in any way.
    fn process_handshake(&mut self, mut bytes: &[u8], reply: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            let complete = self.message.take(&mut bytes);
            if let Some((kind, length)) = self.message.kind_and_length() {
                self.check_allowed(kind, length)?;
            }
            if complete {
                let last = mem::take(&mut self.message).last;
                if self.tls13.is_some() {
                    self.process_key_update(last, bytes)?;
                } else {
                    self.refuse_renegotiation(reply)?;
                }
            }
        }
        Ok(())
    }

    /// The one message that a client of TLS 1.3 may still have is a key_update. One of TLS 1.2 may
    /// ask to renegotiate.
    fn check_allowed(&self, kind: HandshakeType, length: u32) -> Result<(), Error> {
        let allowed = match self.tls13 {
            Some(_) => HandshakeType::KeyUpdate,
            None => HandshakeType::ClientHello,
        };
        if kind != allowed {
            let expect_types = vec![allowed];
            return Err(Error::InappropriateHandshakeMessage { expect_types, got_type: kind });
        }
        if kind == HandshakeType::KeyUpdate && length != 1 {
            return Err(InvalidMessage::TrailingData("KeyUpdate").into());
        }
        if length > MAX_MESSAGE_BYTES {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        Ok(())
    }

    /// RFC 8446 section 4.6.3.
    fn process_key_update(&mut self, request: u8, behind: &[u8]) -> Result<(), Error> {
        // What stands behind it in its record has the wrong key: section 5.1.
        if !behind.is_empty() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        self.allowances.refill_by_time();
        spend(&mut self.allowances.key_updates, PeerMisbehaved::TooManyKeyUpdateRequests)?;
        match request {
            0 => {}
            // Answered before the next data, and once however often it was asked.
            1 => self.key_update_due = true,
            _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
        }
        if let Some(keys) = &mut self.tls13 {
            self.opener = keys.opener()?;
        }
        Ok(())
    }

    /// RFC 5246 section 7.4.1.2.
    fn refuse_renegotiation(&mut self, reply: &mut Vec<u8>) -> Result<(), Error> {
        self.allowances.refill_by_time();
        let asked = &mut self.allowances.renegotiations;
        spend(asked, PeerMisbehaved::TooManyRenegotiationRequests)?;
        if reply.len() > MAX_REPLY_BYTES {
            return Ok(());
        }
        self.append_alert(WARNING, AlertDescription::NoRenegotiation, reply)
    }

    /// Seals `plain` and appends the records to `records`.
    ///
    /// # Errors
    /// If the key is used up: nothing of `plain` is sealed then.
    pub(crate) fn seal(
        &mut self,
        plain: &[u8],
        records: &mut Vec<Vec<u8>>,
    ) -> Result<(), SealError> {
        let chunks = plain.chunks(MAX_PLAIN_BYTES);
        let (needed, used) = (chunks.len() as u64, self.sealer.used());
        let left = self.max_sealed.saturating_sub(used);
        if self.tls13.is_none() && needed > left {
            return Err(SealError::KeysExhausted);
        }
        // One must be left, for the key_update itself.
        if self.key_update_due || needed >= left && used > 0 {
            self.update_sealer(records).map_err(SealError::Misuse)?;
        }
        for chunk in chunks {
            let sealed = self.sealer.seal(ContentType::ApplicationData, chunk);
            records.push(sealed.map_err(SealError::Misuse)?);
        }
        Ok(())
    }

    /// Tells the client of our next key and takes it. TLS 1.2 has none.
    fn update_sealer(&mut self, records: &mut Vec<Vec<u8>>) -> Result<(), Error> {
        if let Some(keys) = &mut self.tls13 {
            records.push(self.sealer.seal(ContentType::Handshake, &KEY_UPDATE)?);
            self.sealer = keys.sealer()?;
            self.key_update_due = false;
        }
        Ok(())
    }

    /// Appends a close_notify to `reply`, unless the session has been ended already.
    pub(crate) fn close_notify(&mut self, reply: &mut Vec<u8>) {
        self.end(WARNING, AlertDescription::CloseNotify, reply);
    }

    /// Appends to `reply` the alert that is to be sent before a session that has failed is closed.
    pub(crate) fn last_words(&mut self, error: &Error, reply: &mut Vec<u8>) {
        if let Some(description) = alert::for_session(error) {
            self.end(FATAL, description, reply);
        }
    }

    fn end(&mut self, level: u8, description: AlertDescription, reply: &mut Vec<u8>) {
        if !mem::replace(&mut self.ended, true) {
            // A cipher that fails leaves nothing to be said.
            let _unsaid = self.append_alert(level, description, reply);
        }
    }

    /// Alerts are sealed whatever the key has sealed before.
    fn append_alert(
        &mut self,
        level: u8,
        description: AlertDescription,
        reply: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let alert = [level, u8::from(description)];
        reply.extend_from_slice(&self.sealer.seal(ContentType::Alert, &alert)?);
        Ok(())
    }
}

impl PartialMessage {
    /// Takes bytes of one message, and tells whether it is complete.
    fn take(&mut self, bytes: &mut &[u8]) -> bool {
        while let Some((&byte, rest)) = bytes.split_first() {
            if let Some(next) = self.head.get_mut(usize::from(self.have)) {
                *next = byte;
                self.have += 1;
                self.left = self.length();
                *bytes = rest;
            } else {
                let taken = (self.left as usize).min(bytes.len());
                self.last = bytes[taken - 1];
                self.left -= u32::try_from(taken).expect("no more than was left");
                *bytes = &bytes[taken..];
            }
            if self.has_header() && self.left == 0 {
                return true;
            }
        }
        false
    }

    fn has_header(&self) -> bool {
        usize::from(self.have) == self.head.len()
    }

    fn length(&self) -> u32 {
        let [_, high, middle, low] = self.head;
        u32::from_be_bytes([0, high, middle, low])
    }

    /// Once the header has come.
    fn kind_and_length(&self) -> Option<(HandshakeType, u32)> {
        self.has_header().then(|| (HandshakeType::from(self.head[0]), self.length()))
    }
}

/// Moves the plaintext at `more` behind what is at `plain`.
fn join(incoming: &mut [u8], plain: &mut Range<usize>, more: Range<usize>) {
    if plain.start == plain.end {
        *plain = more;
        return;
    }
    let bytes = more.len();
    incoming.copy_within(more, plain.end);
    plain.end += bytes;
}

/// The record that `bytes` start with, if it is complete: RFC 8446 section 5.1. What cannot become
/// one is an error before it is.
fn next_record(
    bytes: &mut [u8],
    max_sealed_bytes: usize,
) -> Result<Option<SealedRecord<'_>>, Error> {
    let Some(&[kind, major, minor, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (kind, length) = (ContentType::from(kind), usize::from(u16::from_be_bytes([high, low])));
    match kind {
        ContentType::ApplicationData => {}
        ContentType::Alert | ContentType::Handshake if length > 0 => {}
        ContentType::Alert | ContentType::Handshake => {
            return Err(InvalidMessage::InvalidEmptyPayload.into());
        }
        // Nothing that may come after a handshake; a change_cipher_spec is not even sealed.
        unexpected => return Err(inappropriate(unexpected)),
    }
    if major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    if length > max_sealed_bytes {
        return Err(InvalidMessage::MessageTooLarge.into());
    }
    let Some(payload) = bytes.get_mut(HEADER_BYTES..HEADER_BYTES + length) else {
        return Ok(None);
    };
    let version = ProtocolVersion::from(u16::from_be_bytes([major, minor]));
    Ok(Some(SealedRecord { kind, version, payload }))
}

fn inappropriate(got_type: ContentType) -> Error {
    let expect_types = vec![ContentType::ApplicationData, ContentType::Alert];
    Error::InappropriateMessage { expect_types, got_type }
}

/// Takes one from an allowance.
fn spend(left: &mut u8, out_of_it: PeerMisbehaved) -> Result<(), Error> {
    *left = left.checked_sub(1).ok_or(out_of_it)?;
    Ok(())
}

#[cfg(test)]
mod tests;
