//! The record layer of an established session: splits ciphertext into records, opens and seals them, and
//! processes the client's alerts and handshake messages.
//!
//! **Promises.** No bytes of the peer are held. Records that carry no data but cost CPU time (empty records,
//! warnings, key updates) are limited to a few per second, renegotiation to one. A key seals no more records
//! than its cipher allows (RFC 8446 section 5.5): TLS 1.3 then updates the key, TLS 1.2 cannot.
//!
//! **Not here.** The handshake (`negotiation.rs`), ciphers and nonces (`keys.rs`), sockets (`stream.rs`).

mod clock;
mod message;
mod size;

use std::mem;
use std::ops::Range;

use tokio_rustls::rustls::{
    AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    ProtocolVersion,
};

use self::clock::clock;
use self::message::PartialMessage;
use self::size::RecordSize;
pub(crate) use self::size::SentSizes;
use super::alert;
use super::keys::{KeySource, Keys, OpenedRecord, Opener, SealedRecord, Sealer};
use crate::config::values::MAX_PLAIN_BYTES;
use crate::sessions::trace::Tracer;
use crate::sessions::trace::step::Sender;

/// Size of a record's header: type, version, length. RFC 8446 section 5.1.
pub(super) const HEADER_BYTES: usize = 5;

/// Longest ciphertext of a record in TLS 1.2: RFC 5246 section 6.2.3.
const MAX_SEALED_BYTES_TLS12: usize = MAX_PLAIN_BYTES + 2048;

/// Longest ciphertext of a record in TLS 1.3: RFC 8446 section 5.2.
const MAX_SEALED_BYTES_TLS13: usize = MAX_PLAIN_BYTES + 256;

/// Longest ClientHello that may request a renegotiation: rustls's limit for handshake messages.
const MAX_MESSAGE_BYTES: u32 = 0xffff;

/// Bytes of replies to one read after which a request to renegotiate is ignored, since its sender does not
/// read them. RFC 5246 section 7.2.2 allows that.
const MAX_REPLY_BYTES: usize = 1024;

/// A key_update that does not request another: RFC 8446 section 4.6.3.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// The levels of alerts: RFC 8446 section 6.
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The server side of one TLS session after its handshake.
pub(crate) struct RecordLayer {
    opener: Opener,
    sealer: Sealer,
    /// Records that one key may seal at most.
    max_sealed: u64,
    /// The source of both ciphers, once they are dropped, and of the next keys.
    source: Box<KeySource>,
    /// The source's, so that a record does not need it.
    is_tls13: bool,
    message: PartialMessage,
    allowances: Allowances,
    size: RecordSize,
    /// The client has requested a key update, which is due before the next data.
    key_update_due: bool,
    peer_closed: bool,
    /// A close_notify or a fatal alert has been sent.
    ended: bool,
}

/// Reason for plaintext that was not sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The TLS 1.2 key is used up. The plaintext is lost.
    #[error("the TLS 1.2 session has used up its key")]
    KeysExhausted,
    /// The cipher failed: an internal fault.
    #[error("plaintext could not be sealed: {0}")]
    Misuse(Error),
}

/// Remaining budget for records that carry no data, with the limits of rustls and BoringSSL. Theirs count over
/// the life of a connection. Ours are refilled by application data and by time, since devices stay connected
/// for weeks and some never send data.
struct Allowances {
    empty_records: u8,
    warnings: u8,
    renegotiations: u8,
    key_updates: u8,
    /// Time of the last refill, by [`clock()`].
    since: u32,
}

impl Allowances {
    const FULL: Self =
        Self { empty_records: 32, warnings: 4, renegotiations: 1, key_updates: 32, since: 0 };

    /// Milliseconds between refills. A flood uses the budget up within one.
    const INTERVAL: u32 = 1000;

    /// Refills the budget if an interval has passed.
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

impl RecordLayer {
    /// Returns the record layer of a session that has just been established.
    pub(super) fn new(keys: Keys, sizes: SentSizes) -> Self {
        let Keys { opener, sealer, source, max_sealed } = keys;
        Self {
            opener,
            sealer,
            max_sealed,
            is_tls13: source.is_tls13(),
            source,
            message: PartialMessage::default(),
            allowances: Allowances { since: clock(), ..Allowances::FULL },
            size: RecordSize::new(sizes),
            key_update_due: false,
            peer_closed: false,
            ended: false,
        }
    }

    /// Returns whether the client has ended its stream by a close_notify.
    pub(crate) const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Drops both ciphers. The next record in a direction rebuilds its cipher, which takes a few microseconds.
    pub(super) fn drop_ciphers(&mut self) {
        self.opener.drop_cipher();
        self.sealer.drop_cipher();
    }

    /// Returns true unless both ciphers are dropped.
    pub(super) const fn has_cipher(&self) -> bool {
        self.opener.has_cipher() || self.sealer.has_cipher()
    }

    /// Opens the complete records of `incoming` in place, and returns how many bytes at its end belong to an
    /// incomplete record. The plaintext is moved together, at the range `plain`, which must be empty before.
    /// Appends replies of TLS itself to `reply`. `tracer` gets the alerts of both sides.
    ///
    /// # Errors
    /// If the session has failed. [`Self::append_final_alert`] has the alert to send. `plain` is valid.
    pub(crate) fn open(
        &mut self,
        incoming: &mut [u8],
        plain: &mut Range<usize>,
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
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
            if self.is_tls13 && record.kind != ContentType::ApplicationData {
                // TLS 1.3 seals the type as well. The outer type is always this one: RFC 8446 section 5.2.
                return Err(inappropriate(record.kind));
            }
            self.opener.rebuild(&self.source);
            let opened = self.opener.open(record)?;
            self.process(&opened, reply, tracer)?;
            if opened.kind == ContentType::ApplicationData && !opened.payload.is_empty() {
                let from = opened.payload.as_ptr().addr() - start;
                let more = from..from + opened.payload.len();
                join(incoming, plain, more);
            }
        }
        Ok(0)
    }

    /// Returns the longest ciphertext of a record.
    const fn max_sealed_bytes(&self) -> usize {
        if self.is_tls13 { MAX_SEALED_BYTES_TLS13 } else { MAX_SEALED_BYTES_TLS12 }
    }

    /// Processes a record. The caller handles application data.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other content type of TLS is refused"
    )]
    fn process(
        &mut self,
        record: &OpenedRecord<'_>,
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
    ) -> Result<(), Error> {
        if self.message.has_begun() && record.kind != ContentType::Handshake {
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
            ContentType::Alert => self.process_alert(record.payload, tracer),
            ContentType::Handshake => self.process_handshake(record.payload, reply, tracer),
            unexpected => Err(inappropriate(unexpected)),
        }
    }

    /// Processes an alert: RFC 8446 section 6, RFC 5246 section 7.2.
    fn process_alert(&mut self, alert: &[u8], tracer: Option<&Tracer>) -> Result<(), Error> {
        let &[level, description] = alert else {
            return Err(InvalidMessage::MissingData("Alert").into());
        };
        if !matches!(level, WARNING | FATAL) {
            return Err(alert::UNKNOWN_LEVEL.into());
        }
        let description = AlertDescription::from(description);
        alert::trace(tracer, Sender::Device, description);
        if description == AlertDescription::CloseNotify {
            self.peer_closed = true;
            return Ok(());
        }
        // TLS 1.3 treats all others as fatal, whatever their level.
        let harmless = !self.is_tls13 || description == AlertDescription::UserCanceled;
        if level == WARNING && harmless {
            self.allowances.refill_by_time();
            return spend(
                &mut self.allowances.warnings,
                PeerMisbehaved::TooManyWarningAlertsReceived,
            );
        }
        Err(Error::AlertReceived(description))
    }

    /// Processes handshake messages, which may be split over records in any way.
    fn process_handshake(
        &mut self,
        mut bytes: &[u8],
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
    ) -> Result<(), Error> {
        while !bytes.is_empty() {
            let complete = self.message.take(&mut bytes);
            if let Some((kind, length)) = self.message.kind_and_length() {
                self.check_allowed(kind, length)?;
            }
            if complete {
                let last = mem::take(&mut self.message).last;
                if self.is_tls13 {
                    self.process_key_update(last, bytes)?;
                } else {
                    self.refuse_renegotiation(reply, tracer)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that a message is allowed after the handshake: in TLS 1.3 only a key_update, in TLS 1.2 only a
    /// request to renegotiate.
    fn check_allowed(&self, kind: HandshakeType, length: u32) -> Result<(), Error> {
        let allowed =
            if self.is_tls13 { HandshakeType::KeyUpdate } else { HandshakeType::ClientHello };
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

    /// Processes a key_update: RFC 8446 section 4.6.3.
    fn process_key_update(&mut self, request: u8, behind: &[u8]) -> Result<(), Error> {
        // Bytes behind it in its record were sealed with the wrong key: section 5.1.
        if !behind.is_empty() {
            return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
        }
        self.allowances.refill_by_time();
        spend(&mut self.allowances.key_updates, PeerMisbehaved::TooManyKeyUpdateRequests)?;
        match request {
            0 => {}
            // Answered once, before the next data: a client that requests updates and reads nothing would
            // otherwise fill our memory with answers.
            1 => self.key_update_due = true,
            _ => return Err(InvalidMessage::InvalidKeyUpdate.into()),
        }
        if let Some(opener) = self.source.next_opener() {
            self.opener = opener;
        }
        Ok(())
    }

    /// Refuses a renegotiation: RFC 5246 section 7.4.1.2.
    fn refuse_renegotiation(
        &mut self,
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
    ) -> Result<(), Error> {
        self.allowances.refill_by_time();
        let asked = &mut self.allowances.renegotiations;
        spend(asked, PeerMisbehaved::TooManyRenegotiationRequests)?;
        if reply.len() > MAX_REPLY_BYTES {
            return Ok(());
        }
        self.append_alert(WARNING, AlertDescription::NoRenegotiation, reply, tracer)
    }

    /// Seals `plain` and appends the records to `records`.
    ///
    /// # Errors
    /// If the key is used up. Then no byte of `plain` is sealed.
    pub(crate) fn seal(
        &mut self,
        plain: &[u8],
        records: &mut Vec<Vec<u8>>,
    ) -> Result<(), SealError> {
        self.sealer.rebuild(&self.source).map_err(SealError::Misuse)?;
        let size = self.size.of_write(plain.len());
        let chunks = plain.chunks(size);
        let (needed, used) = (chunks.len() as u64, self.sealer.used());
        let left = self.max_sealed.saturating_sub(used);
        if !self.is_tls13 && needed > left {
            return Err(SealError::KeysExhausted);
        }
        // One record must be left, for the key_update itself.
        if self.key_update_due || needed >= left && used > 0 {
            self.update_sealer(records).map_err(SealError::Misuse)?;
        }
        // Small records are joined: one system call takes a limited number of buffers.
        let joined = MAX_PLAIN_BYTES.div_ceil(size);
        for chunks in plain.chunks(joined * size) {
            records.push(self.seal_joined(chunks, size).map_err(SealError::Misuse)?);
        }
        Ok(())
    }

    /// Seals `plain` as records of this size, one behind the other.
    fn seal_joined(&mut self, plain: &[u8], size: usize) -> Result<Vec<u8>, Error> {
        let (first, rest) = plain.split_at(size.min(plain.len()));
        let mut records = self.sealer.seal(ContentType::ApplicationData, first)?;
        records.reserve_exact(rest.len().div_ceil(size) * records.len());
        for chunk in rest.chunks(size) {
            records.extend_from_slice(&self.sealer.seal(ContentType::ApplicationData, chunk)?);
        }
        Ok(records)
    }

    /// Announces our next key to the client and uses it from then on. TLS 1.2 has none.
    fn update_sealer(&mut self, records: &mut Vec<Vec<u8>>) -> Result<(), Error> {
        if self.is_tls13 {
            // Before the source moves on: a cipher that is rebuilt always has the key of its sequence number.
            records.push(self.sealer.seal(ContentType::Handshake, &KEY_UPDATE)?);
        }
        if let Some(next) = self.source.next_sealer() {
            self.sealer = next;
            self.key_update_due = false;
        }
        Ok(())
    }

    /// Appends a close_notify to `reply`, unless a close_notify or fatal alert has been sent.
    pub(crate) fn append_close_notify(&mut self, reply: &mut Vec<u8>, tracer: Option<&Tracer>) {
        self.end(WARNING, AlertDescription::CloseNotify, reply, tracer);
    }

    /// Appends the alert for a session that failed with `error` to `reply`.
    pub(crate) fn append_final_alert(
        &mut self,
        error: &Error,
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
    ) {
        if let Some(description) = alert::for_session(error) {
            self.end(FATAL, description, reply, tracer);
        }
    }

    fn end(
        &mut self,
        level: u8,
        description: AlertDescription,
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
    ) {
        if !mem::replace(&mut self.ended, true) {
            // If the cipher fails, no alert can be sent.
            let _unsent = self.append_alert(level, description, reply, tracer);
        }
    }

    /// Seals an alert, even if the key has reached its limit.
    fn append_alert(
        &mut self,
        level: u8,
        description: AlertDescription,
        reply: &mut Vec<u8>,
        tracer: Option<&Tracer>,
    ) -> Result<(), Error> {
        let alert = [level, u8::from(description)];
        self.sealer.rebuild(&self.source)?;
        reply.extend_from_slice(&self.sealer.seal(ContentType::Alert, &alert)?);
        alert::trace(tracer, Sender::Tlsidecar, description);
        Ok(())
    }
}

/// Moves the plaintext at `more` behind the plaintext at `plain`.
fn join(incoming: &mut [u8], plain: &mut Range<usize>, more: Range<usize>) {
    if plain.start == plain.end {
        *plain = more;
        return;
    }
    let bytes = more.len();
    incoming.copy_within(more, plain.end);
    plain.end += bytes;
}

/// Returns the first record of `bytes`, if it is complete: RFC 8446 section 5.1. Invalid headers are errors
/// before the record is complete.
fn next_record(
    bytes: &mut [u8],
    max_sealed_bytes: usize,
) -> Result<Option<SealedRecord<'_>>, Error> {
    let Some(&[kind, major, minor, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let (kind, length) = (ContentType::from(kind), usize::from(u16::from_be_bytes([high, low])));
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other content type of TLS is refused"
    )]
    match kind {
        ContentType::ApplicationData => {}
        ContentType::Alert | ContentType::Handshake if length > 0 => {}
        ContentType::Alert | ContentType::Handshake => {
            return Err(InvalidMessage::InvalidEmptyPayload.into());
        }
        // No other type may follow a handshake. A change_cipher_spec is not even sealed.
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

/// Uses one unit of a budget.
fn spend(left: &mut u8, out_of_it: PeerMisbehaved) -> Result<(), Error> {
    *left = left.checked_sub(1).ok_or(out_of_it)?;
    Ok(())
}

#[cfg(test)]
mod tests;
