//! The terminal's alternate screen: pictures one over the other, and afterwards what was there before.

use std::io::{IsTerminal, Write};

use crate::out;
use crate::trouble::Trouble;

/// Switches to the alternate screen, and hides the cursor.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
/// Undoes that.
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";

/// The alternate screen, until it is dropped: at the end of the command, whatever ends it.
pub(crate) struct Screen(());

impl Screen {
    /// None where standard output is no terminal.
    pub(crate) fn open() -> Result<Option<Screen>, Trouble> {
        if !std::io::stdout().is_terminal() {
            return Ok(None);
        }
        let screen = Screen(());
        out::text(OPEN)?;
        Ok(Some(screen))
    }

    /// Puts a picture over the one before. Lines for which the terminal has no room are left out.
    pub(crate) fn show(&mut self, text: &str) -> Result<(), Trouble> {
        let rows = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| size.ws_row);
        out::text(&picture(text, rows))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing restored.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(CLOSE.as_bytes()).and_then(|()| out.flush());
    }
}

/// Home; each line, and nothing of an older one behind it; no line below the last.
fn picture(text: &str, rows: u16) -> String {
    let rows = if rows == 0 { usize::MAX } else { usize::from(rows) };
    let lines: Vec<&str> = text.lines().take(rows).collect();
    format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_ends_each_line_and_what_is_below() {
        assert_eq!(picture("one\ntwo\n", 24), "\x1b[Hone\x1b[K\r\ntwo\x1b[K\x1b[J");
        assert_eq!(picture("one\ntwo\n", 1), "\x1b[Hone\x1b[K\x1b[J");
        assert_eq!(picture("one\ntwo\n", 0), picture("one\ntwo\n", 2));
    }
}
