//! Few colours with fixed meanings; all of them vanish without a terminal.

use owo_colors::{AnsiColors, OwoColorize, Style};

/// What a piece of text says by its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// No colour.
    #[default]
    Plain,
    /// Healthy, created, added.
    Good,
    /// Under way or worth a look.
    Warn,
    /// Failed, refused, removed.
    Bad,
    /// Secondary.
    Dim,
    /// A heading.
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => Style::new().green(),
            Self::Warn => Style::new().yellow(),
            Self::Bad => Style::new().red(),
            Self::Dim => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        }
    }

    /// `text` in this tone, or as it is where `colour` is off.
    pub fn paint(self, text: &str, colour: bool) -> String {
        if !colour || self == Self::Plain || text.is_empty() {
            return text.to_owned();
        }
        text.style(self.style()).to_string()
    }
}

/// The prefix of one capsule's lines among many: each name keeps its colour within a run.
pub fn prefix(at: usize, name: &str, width: usize, colour: bool) -> String {
    const WHEEL: [AnsiColors; 6] = [
        AnsiColors::Cyan,
        AnsiColors::Magenta,
        AnsiColors::Green,
        AnsiColors::Yellow,
        AnsiColors::Blue,
        AnsiColors::BrightCyan,
    ];
    let tag = format!("[{name}]{:pad$} ", "", pad = width.saturating_sub(name.chars().count()));
    if colour { tag.color(WHEEL[at % WHEEL.len()]).to_string() } else { tag }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_align_and_take_turns_in_colour() {
        assert_eq!(prefix(0, "a", 3, false), "[a]   ");
        assert_eq!(prefix(1, "abc", 3, false), "[abc] ");
        assert_ne!(prefix(0, "a", 1, true), prefix(1, "a", 1, true));
    }

    #[test]
    fn without_colour_text_stays_as_it_is() {
        assert_eq!(Tone::Bad.paint("dead", false), "dead");
        assert_eq!(Tone::Bad.paint("dead", true), "\u{1b}[31mdead\u{1b}[0m");
    }
}
