//! The sections of a PEM file: RFC 7468.
//!
//! **Promises.** Every byte of a file belongs to a section, or is text that cannot be mistaken for a part of
//! one. Anything else is a fault with its line: two boundaries on one line, a section without its end, or a
//! part that lost its boundary. Programs that skip such a part load less than the file was made to hold.
//!
//! **Not here.** The content of sections, and the choice among them (`pem.rs`).

/// A section from its BEGIN to its END.
pub(super) struct Section<'a> {
    /// The line of its BEGIN, from 1.
    pub(super) line: usize,
    /// The label of its boundaries, for example `CERTIFICATE`.
    pub(super) label: &'a str,
    /// The bytes between its boundaries.
    pub(super) body: &'a [u8],
    /// The section with its boundaries.
    pub(super) whole: &'a [u8],
    /// It is encrypted as in RFC 1421, as by `openssl genrsa -aes256 -traditional`.
    pub(super) encrypted: bool,
}

/// A fault of a file, with its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PemFault {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) kind: PemFaultKind,
}

/// A fault of a file. No text quotes the file: it can be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemFaultKind {
    #[error("a BEGIN or END shares its line with other text, such as the END before it")]
    BoundaryNotAlone,
    #[error(
        "a BEGIN or END is damaged: it must have five hyphens on both sides and capital letters"
    )]
    BoundaryDamaged,
    #[error("an END without a BEGIN")]
    EndAlone,
    #[error("a section begins before the END of the section that begins in line {0}")]
    NoEnd(usize),
    #[error("the file ends before the END of the section that begins in line {0}")]
    CutShort(usize),
    #[error("the END has another label than the section that begins in line {0}")]
    OtherEnd(usize),
    #[error("this looks like the content of a section, but is outside of every section")]
    Stray,
    #[error("this is not base64, in the section that begins in line {0}")]
    NotBase64(usize),
    #[error("the section is empty")]
    Empty,
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const HYPHENS: &[u8] = b"-----";

/// The byte order mark that some editors put before UTF-8; `cat` leaves it between files.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Length from which on a line of base64 is taken for a part of a section, whose lines have 64 or 76.
const LINE_OF_BASE64: usize = 48;

/// Splits a file into its sections.
///
/// # Errors
/// The first fault.
pub(super) fn sections(file: &[u8]) -> Result<Vec<Section<'_>>, PemFault> {
    let mut sections = Vec::new();
    let mut open: Option<Open<'_>> = None;
    let mut last = 0;
    for PemLine { number, start, end, text } in lines(file) {
        last = number;
        let fault = |kind| PemFault { line: number, kind };
        let boundary = boundary(text).map_err(fault)?;
        open = match (open.take(), boundary) {
            (None, Boundary::None) => {
                outside(text).map_err(fault)?;
                None
            }
            (None, Boundary::Begin(label)) => {
                Some(Open { line: number, label, start, body: end, encrypted: false })
            }
            (None, Boundary::End(_)) => return Err(fault(PemFaultKind::EndAlone)),
            (Some(section), Boundary::Begin(_)) => {
                return Err(fault(PemFaultKind::NoEnd(section.line)));
            }
            (Some(section), Boundary::End(label)) if label == section.label => {
                sections.push(section.closed(file, start, end)?);
                None
            }
            (Some(section), Boundary::End(_)) => {
                return Err(fault(PemFaultKind::OtherEnd(section.line)));
            }
            (Some(section), Boundary::None) => Some(section.inside(text).map_err(fault)?),
        };
    }
    match open {
        Some(section) => Err(PemFault { line: last, kind: PemFaultKind::CutShort(section.line) }),
        None => Ok(sections),
    }
}

/// A section whose END has not been read yet.
struct Open<'a> {
    line: usize,
    label: &'a str,
    start: usize,
    body: usize,
    encrypted: bool,
}

impl<'a> Open<'a> {
    fn closed(self, file: &'a [u8], start: usize, end: usize) -> Result<Section<'a>, PemFault> {
        let Self { line, label, encrypted, .. } = self;
        let (body, whole) = (&file[self.body..start], &file[self.start..end]);
        if body.trim_ascii().is_empty() {
            return Err(PemFault { line, kind: PemFaultKind::Empty });
        }
        Ok(Section { line, label, body, whole, encrypted })
    }

    /// Adds a line of its content.
    fn inside(mut self, text: &[u8]) -> Result<Self, PemFaultKind> {
        let encapsulated = text.contains(&b':');
        if encapsulated && text.starts_with(b"Proc-Type:") && text.ends_with(b"ENCRYPTED") {
            self.encrypted = true;
        } else if encapsulated && self.encrypted {
            // For example `DEK-Info`.
        } else if !text.iter().copied().all(is_base64) {
            return Err(PemFaultKind::NotBase64(self.line));
        }
        Ok(self)
    }
}

/// A line of a file, ended by `\n`, by `\r\n` (Windows) or by `\r` (classic Mac OS).
struct PemLine<'a> {
    number: usize,
    start: usize,
    /// Position of the next line.
    end: usize,
    /// The text without white space at its end and without byte order marks.
    text: &'a [u8],
}

fn lines(file: &[u8]) -> impl Iterator<Item = PemLine<'_>> {
    let (mut at, mut number) = (0, 0);
    std::iter::from_fn(move || {
        let rest = file.get(at..).filter(|rest| !rest.is_empty())?;
        let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let length = length.unwrap_or(rest.len());
        let ended = if rest[length..].starts_with(b"\r\n") { 2 } else { 1 };
        let (mut start, end) = (at, (at + length + ended).min(file.len()));
        let mut text = &rest[..length];
        while let Some(marked) = text.strip_prefix(BYTE_ORDER_MARK) {
            text = marked;
            start += BYTE_ORDER_MARK.len();
        }
        (at, number) = (end, number + 1);
        Some(PemLine { number, start, end, text: text.trim_ascii_end() })
    })
}

enum Boundary<'a> {
    Begin(&'a str),
    End(&'a str),
    None,
}

fn boundary(text: &[u8]) -> Result<Boundary<'_>, PemFaultKind> {
    // A quick check: nearly all lines are base64, and a CRL can have half a million of them.
    if !text.contains(&b'-') {
        return Ok(Boundary::None);
    }
    let label = |prefix| {
        let label = text.strip_prefix(prefix)?.strip_suffix(HYPHENS)?;
        str::from_utf8(label).ok().filter(|label| label.bytes().all(is_label))
    };
    if let Some(label) = label(BEGIN) {
        return Ok(Boundary::Begin(label));
    }
    if let Some(label) = label(END) {
        return Ok(Boundary::End(label));
    }
    // A boundary behind a `#` is a comment.
    let commented_out = text.trim_ascii_start().starts_with(b"#");
    match text.windows(HYPHENS.len()).any(|window| window == HYPHENS) {
        true if !commented_out && names_a_boundary(text) => Err(PemFaultKind::BoundaryNotAlone),
        _ => Ok(Boundary::None),
    }
}

const fn is_label(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b' ' | b'.' | b'#' | b'/')
}

/// Returns whether the text has BEGIN or END before another word.
fn names_a_boundary(text: &[u8]) -> bool {
    let upper = text.to_ascii_uppercase();
    let has = |word: &[u8]| upper.windows(word.len()).any(|window| window == word);
    has(b"BEGIN ") || has(b"END ")
}

/// Checks a line outside of every section. Text about a certificate often precedes it.
fn outside(text: &[u8]) -> Result<(), PemFaultKind> {
    let comment = text.trim_ascii();
    if comment.starts_with(b"#") {
        return Ok(());
    }
    // Word processors replace hyphens with dashes.
    let dashes = ["--", "\u{2013}", "\u{2014}", "\u{2212}"].map(str::as_bytes);
    let dashed = |dash: &[u8]| comment.starts_with(dash) || comment.ends_with(dash);
    if names_a_boundary(comment) && dashes.into_iter().any(dashed) {
        return Err(PemFaultKind::BoundaryDamaged);
    }
    let has = |class: fn(&u8) -> bool| comment.iter().any(class);
    // The hexadecimal digits of a fingerprint have one case; a line below a heading has no letters.
    let mixed = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    // Base64 has no spaces; sentences do.
    let one_word = comment.iter().all(|&byte| is_base64(byte) && !byte.is_ascii_whitespace());
    match comment.len() >= LINE_OF_BASE64 && mixed && one_word {
        true => Err(PemFaultKind::Stray),
        false => Ok(()),
    }
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----";

    fn labels(text: &str) -> Result<Vec<(usize, &str)>, PemFault> {
        let sections = sections(text.as_bytes())?;
        Ok(sections.iter().map(|section| (section.line, section.label)).collect())
    }

    fn fault(text: &str) -> (usize, PemFaultKind) {
        let fault = labels(text).unwrap_err();
        (fault.line, fault.kind)
    }

    #[test]
    fn sections_are_found_among_words_marks_and_every_kind_of_line_end() {
        let found = |text: &str| labels(text).unwrap().len();
        assert_eq!(found(&format!("{ONE}\n{ONE}\n")), 2);
        assert_eq!(found(&format!("{ONE}\n\n subject=CN = a\n===========\n{ONE}")), 2);
        let heading = "Hellenic Academic and Research Institutions RootCA 2015";
        assert_eq!(found(&format!("{heading}\n{}\n{ONE}", "=".repeat(55))), 1);
        assert_eq!(found(&format!("\u{feff}{ONE}\n\u{feff}{ONE}\n")), 2);
        assert_eq!(found(&format!("{ONE}\n{ONE}\n").replace('\n', "\r\n")), 2);
        assert_eq!(found(&format!("{ONE}\n{ONE}\n").replace('\n', "\r")), 2);
        assert_eq!(found(&ONE.replace('\n', " \t\n")), 1);
        let text = format!("a\r\nb\r\n{ONE}\r\n");
        let lines = labels(&text).unwrap();
        assert_eq!(lines, [(3, "CERTIFICATE")]);
    }

    #[test]
    fn a_boundary_that_is_not_alone_or_is_damaged_is_a_fault_with_its_line() {
        assert_eq!(fault(&format!("{ONE}{ONE}\n")), (3, PemFaultKind::BoundaryNotAlone));
        assert_eq!(fault(&format!("text {ONE}\n")), (1, PemFaultKind::BoundaryNotAlone));
        let indented = fault(&format!("\n {ONE}"));
        assert_eq!(indented, (2, PemFaultKind::BoundaryNotAlone));
        let joined = ONE.replace("TUlJ\n", "TUlJ");
        assert_eq!(fault(&joined), (2, PemFaultKind::BoundaryNotAlone));
        let damages = ["----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE----"];
        for damaged in damages {
            let text = ONE.replace("-----BEGIN CERTIFICATE-----", damaged);
            assert_eq!(fault(&text).0, 1, "{text}");
        }
        let dashes = ONE.replace("-----", "\u{2013}\u{2013}\u{2013}");
        assert_eq!(fault(&dashes), (1, PemFaultKind::BoundaryDamaged));
        assert_eq!(fault(&ONE.to_lowercase()).0, 1);
    }

    #[test]
    fn a_lost_boundary_or_content_is_a_fault_with_its_line() {
        let body = "MIIBszCCAVmgAwIBAgIUQx7Yk2J0b3JlbSBpcHN1bSBkb2xvciBzaXQgYW1ldCBjb25z";
        let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
        assert_eq!(fault(&format!("{body}\n{end}")), (1, PemFaultKind::Stray));
        assert_eq!(fault(&format!("{ONE}\n{end}")), (4, PemFaultKind::EndAlone));
        assert_eq!(fault(&format!("{begin}\n{body}\n{ONE}")), (3, PemFaultKind::NoEnd(1)));
        assert_eq!(fault(&format!("{ONE}\n{begin}\n{body}\n")), (5, PemFaultKind::CutShort(4)));
        assert_eq!(
            fault(&format!("{begin}\n{body}\n-----END X509 CRL-----")),
            (3, PemFaultKind::OtherEnd(1))
        );
        assert_eq!(fault(&format!("{begin}\n\n{end}")), (1, PemFaultKind::Empty));
        assert_eq!(fault(&format!("{begin}\n{body}\n%\n{end}")), (3, PemFaultKind::NotBase64(1)));
    }

    #[test]
    fn a_commented_section_is_skipped() {
        let commented: String = ONE.lines().map(|line| format!("# {line}\n")).collect();
        assert_eq!(labels(&format!("{commented}{ONE}")).unwrap(), [(4, "CERTIFICATE")]);
    }

    #[test]
    fn a_key_with_a_passphrase_in_the_old_form_is_known_for_one() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                   DEK-Info: AES-256-CBC,00\n\nTUlJ\n-----END RSA PRIVATE KEY-----\n";
        assert!(sections(key.as_bytes()).unwrap()[0].encrypted);
    }
}
