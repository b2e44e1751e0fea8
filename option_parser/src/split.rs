//! Splitting a text at separators that brackets and quotes do not protect.
//!
//! Does: `a=[1,2],b="x,y"` at the commas into `a=[1,2]` and `b=x,y`. Double quotes are removed,
//! brackets stay for whoever converts the value. Inside quotes, brackets mean nothing.
//!
//! Does not: know keys. There is no escape character: a value cannot contain a double quote.
//!
//! Invariant: nothing but quotes is removed, and a text with an open quote or bracket is refused.

use thiserror::Error;

/// Why a text could not be split.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SplitError {
    /// A double quote without its partner.
    #[error("a double quote is not closed")]
    OpenQuote,
    /// `[` without `]`.
    #[error("a '[' is not closed by ']'")]
    OpenBracket,
    /// `]` without `[`.
    #[error("a ']' has no '[' before it")]
    StrayBracket,
}

/// The pieces of `text` between unprotected `separator`s, without their quotes. An empty text has
/// no pieces; two separators in a row have an empty piece between them.
pub fn split(text: &str, separator: char) -> Result<Vec<String>, SplitError> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut quoted = false;
    let mut depth = 0_usize;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if quoted => piece.push(c),
            c if c == separator && depth == 0 => pieces.push(std::mem::take(&mut piece)),
            '[' => {
                depth += 1;
                piece.push(c);
            }
            ']' => {
                depth = depth.checked_sub(1).ok_or(SplitError::StrayBracket)?;
                piece.push(c);
            }
            c => piece.push(c),
        }
    }
    if quoted {
        return Err(SplitError::OpenQuote);
    }
    if depth != 0 {
        return Err(SplitError::OpenBracket);
    }
    if !text.is_empty() {
        pieces.push(piece);
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_quotes_protect_separators() {
        assert_eq!(split("a,b", ',').unwrap(), ["a", "b"]);
        assert_eq!(split("a=[1,2],b", ',').unwrap(), ["a=[1,2]", "b"]);
        assert_eq!(
            split("a=[[1,2],[3]],b", ',').unwrap(),
            ["a=[[1,2],[3]]", "b"]
        );
        assert_eq!(split("a=\"x,y\",b", ',').unwrap(), ["a=x,y", "b"]);
        assert_eq!(split("a=\"x[,y\",b", ',').unwrap(), ["a=x[,y", "b"]);
    }

    #[test]
    fn empty_pieces_are_kept() {
        assert_eq!(split("", ',').unwrap(), Vec::<String>::new());
        assert_eq!(split(",", ',').unwrap(), ["", ""]);
        assert_eq!(split("a,,b", ',').unwrap(), ["a", "", "b"]);
        assert_eq!(split("\"\"", ',').unwrap(), [""]);
    }

    #[test]
    fn unmatched_marks_are_refused() {
        assert_eq!(split("a=\"b", ','), Err(SplitError::OpenQuote));
        assert_eq!(split("a=[b", ','), Err(SplitError::OpenBracket));
        assert_eq!(split("a]=b", ','), Err(SplitError::StrayBracket));
    }
}
