//! Text of unknown origin, made fit for one line of the control stream.
//!
//! A guest writes bytes; the control stream carries JSON. `Text` is what lies between: UTF-8 (bytes that are none become
//! U+FFFD), bounded as text and bounded as JSON, where one control character grows to six bytes. Every string of an event
//! that is not ours is a `Text`, and the bounds are such that no event can outgrow its line.

use serde::Serialize;

/// What is kept of one line that a program writes.
pub const LINE: usize = 16 << 10;
/// What is kept of the last lines that a program wrote.
pub const TAIL: usize = 4 << 10;
/// The longest message of the monitor's own.
pub const MESSAGE: usize = 2 << 10;
/// The longest form of a text in JSON: a line is 64 KiB, and an event has other fields beside its text.
const ENCODED: usize = 56 << 10;

/// A bounded string; see the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// The beginning of `bytes`, at most `most` bytes of UTF-8, and whether something was cut off.
    pub fn head(bytes: &[u8], most: usize) -> (Self, bool) {
        // What lies beyond `most` cannot count; three more bytes let a character at the border be seen whole.
        let window = &bytes[..bytes.len().min(most + 3)];
        let text = String::from_utf8_lossy(window);
        let (mut end, mut encoded) = (0, 0);
        for character in text.chars() {
            let (raw, json) = (character.len_utf8(), encoded_length(character));
            if end + raw > most || encoded + json > ENCODED {
                break;
            }
            end += raw;
            encoded += json;
        }
        let cut = end < text.len() || window.len() < bytes.len();
        (Self(text[..end].to_owned()), cut)
    }

    /// The end of `bytes`, at most `TAIL` bytes of UTF-8.
    pub fn tail(bytes: &[u8]) -> Self {
        let mut window = &bytes[bytes.len().saturating_sub(TAIL)..];
        if window.len() < bytes.len() {
            // The cut may have split a character: its continuation bytes say nothing.
            let partial = window
                .iter()
                .take(3)
                .take_while(|byte| *byte & 0xc0 == 0x80)
                .count();
            window = &window[partial..];
        }
        let text = String::from_utf8_lossy(window);
        let excess = text.len().saturating_sub(TAIL);
        let start = (excess..=text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(text.len());
        Self(text[start..].to_owned())
    }

    /// A message of the monitor's own, which may quote what it did not write.
    pub fn message(text: impl AsRef<str>) -> Self {
        Self::head(text.as_ref().as_bytes(), MESSAGE).0
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How many bytes `serde_json` writes for a character.
fn encoded_length(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        _ => character.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &Text) -> usize {
        serde_json::to_string(text).unwrap().len() - 2
    }

    #[test]
    fn short_text_is_kept_whole() {
        assert_eq!(
            Text::head("häuser\t1".as_bytes(), LINE),
            (Text("häuser\t1".to_owned()), false)
        );
        assert_eq!(Text::head(b"", LINE), (Text::default(), false));
    }

    #[test]
    fn bytes_that_are_no_utf8_become_replacement_characters() {
        assert_eq!(Text::head(b"a\xff\xc3(", LINE).0.as_str(), "a\u{fffd}\u{fffd}(");
        let (text, cut) = Text::head(&[0xff; LINE], LINE);
        assert!(cut && text.0.len() <= LINE && text.0.chars().all(|c| c == '\u{fffd}'));
    }

    #[test]
    fn a_character_at_the_limit_is_left_out_whole() {
        assert_eq!(Text::head("aé".as_bytes(), 2), (Text("a".to_owned()), true));
        assert_eq!(Text::head("aé".as_bytes(), 3), (Text("aé".to_owned()), false));
        assert_eq!(
            Text::head("a\u{10ffff}b".as_bytes(), 5),
            (Text("a\u{10ffff}".to_owned()), true)
        );
    }

    #[test]
    fn control_characters_cannot_make_a_long_line() {
        let (text, cut) = Text::head(&[0; LINE], LINE);
        assert!(cut && json(&text) <= ENCODED);
        for character in (0..0x300).filter_map(char::from_u32) {
            assert_eq!(
                json(&Text(character.to_string())),
                encoded_length(character),
                "{character:?}"
            );
        }
    }

    #[test]
    fn a_tail_is_the_end_and_starts_at_a_character() {
        assert_eq!(Text::tail(b"short").as_str(), "short");
        let long = "é".repeat(TAIL);
        for shift in 0..3 {
            let text = Text::tail(&long.as_bytes()[..long.len() - 2 * shift]);
            assert!(text.0.len() <= TAIL && text.0.chars().all(|c| c == 'é'));
        }
        let odd = format!("x{long}y");
        assert!(Text::tail(odd.as_bytes()).as_str().starts_with('é'));
        assert!(Text::tail(&[0xff; 3 * TAIL]).as_str().len() <= TAIL);
    }
}
