//! YAML 1.2 without anchors, aliases and tags of one's own.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{
    error::{Place, Problem},
    scalar::Scalar,
    tree::{Builder, Tree},
};

/// Every document of `text`, up to the first mistake in its syntax.
pub(super) fn read(text: &str) -> Tree {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let result = match event {
            Ok((event, span)) => take(&mut builder, event, place(&span.start)),
            Err(error) => {
                let at = place(error.marker());
                let hint = if has_tab_indent(text, at) { "; indent with blanks, not with tabs" } else { "" };
                Err(Problem::new(at, format!("this is not valid YAML: {}{hint}", error.info())))
            }
        };
        if let Err(problem) = result {
            return builder.finish(Some(problem));
        }
    }
    builder.finish(None)
}

/// Whether the line of a mistake, or the one before it, is indented with a tab.
fn has_tab_indent(text: &str, at: Place) -> bool {
    let lines = text.lines().skip(at.line.saturating_sub(2)).take(2);
    lines.map(|line| &line[..line.len() - line.trim_start().len()]).any(|indent| indent.contains('\t'))
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

fn take(builder: &mut Builder, event: Event, at: Place) -> Result<(), Problem> {
    match event {
        Event::Scalar(text, style, anchor, tag) => {
            refuse_anchor(anchor, at)?;
            let is_text = has_text_tag(tag.as_deref(), at)? || style != ScalarStyle::Plain;
            builder.scalar(at, Scalar::new(text.into_owned(), is_text));
        }
        Event::SequenceStart(anchor, tag) => {
            refuse_anchor(anchor, at)?;
            has_text_tag(tag.as_deref(), at)?;
            builder.open_list(at)?;
        }
        Event::MappingStart(anchor, tag) => {
            refuse_anchor(anchor, at)?;
            has_text_tag(tag.as_deref(), at)?;
            builder.open_map(at)?;
        }
        Event::SequenceEnd | Event::MappingEnd => builder.close(),
        Event::Alias(_) => return Err(Problem::new(at, NO_ANCHORS)),
        Event::Nothing
        | Event::StreamStart
        | Event::StreamEnd
        | Event::DocumentStart(_)
        | Event::DocumentEnd => {}
    }
    Ok(())
}

const NO_ANCHORS: &str = "anchors (&) and aliases (*) are not taken in manifests; write the value out, \
                          or quote it where it is a text";

/// Aliases make a small text stand for a huge one, and a manifest has little to repeat.
fn refuse_anchor(anchor: usize, at: Place) -> Result<(), Problem> {
    if anchor == 0 { Ok(()) } else { Err(Problem::new(at, NO_ANCHORS)) }
}

/// Whether a tag says that the scalar is a text; other tags say nothing a manifest needs.
fn has_text_tag(tag: Option<&Tag>, at: Place) -> Result<bool, Problem> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(true),
        Some(tag) => {
            let message =
                format!("the tag {tag} is not taken in manifests; quote the value where it is a text");
            Err(Problem::new(at, message))
        }
    }
}
