//! Server-sent events: the lines of `GET /events`, joined to events.
//!
//! **Promises.** A number counts once its event is complete: WHATWG HTML, section 9.2.6.
//!
//! **Not here.** The content of an event (`events/text.rs`), the length of a line (`admin_client/lines.rs`).

/// An event, or a number and a comment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// The number up to which events were sent.
    pub(super) number: Option<u64>,
    /// The JSON of the event.
    pub(super) data: Option<String>,
    /// It is the comment at the end of a drain.
    pub(super) is_drained: bool,
}

/// The lines of an event that has no end yet.
#[derive(Default)]
pub(super) struct EventStream(Block);

impl EventStream {
    /// Adds a line. Returns the event that it ends.
    pub(super) fn line(&mut self, line: &str) -> Option<Block> {
        if line.is_empty() {
            return Some(std::mem::take(&mut self.0));
        }
        // The line `event` repeats a key of the data. A comment begins with a colon.
        match line.split_once(": ") {
            Some(("id", number)) => self.0.number = number.parse().ok(),
            // The admin port sends one line of data for each event.
            Some(("data", data)) => self.0.data = Some(data.to_owned()),
            Some(("", "drained")) => self.0.is_drained = true,
            Some(_) | None => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<(Option<u64>, Option<String>)> {
        let mut stream = EventStream::default();
        let blocks = text.split('\n').filter_map(|line| stream.line(line));
        blocks.map(|Block { number, data, .. }| (number, data)).collect()
    }

    #[test]
    fn an_event_counts_once_it_is_complete() {
        assert_eq!(blocks(": events\nid: 6\n"), [(Some(6), None)]);
        assert_eq!(blocks("id: 7\nevent: drain\ndata: {\"a\": \"b: c\"}"), []);
        let event = (Some(7), Some("{\"a\": \"b: c\"}".to_owned()));
        assert_eq!(blocks("id: 7\nevent: drain\ndata: {\"a\": \"b: c\"}\n"), [event]);
        assert_eq!(blocks(":\n\n: later\nretry: 9\n"), [(None, None), (None, None)]);
    }
}
