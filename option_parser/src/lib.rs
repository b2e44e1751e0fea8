//! Options of the form `key=value,key=value`, as the command line uses them.
//!
//! Does: split such a text at the commas that are not inside brackets or quotes, check its keys
//! against those an option knows, and convert values (sizes, toggles, numbers, lists).
//!
//! Does not: know any particular option, touch files, or print.
//!
//! Invariant: a text is accepted as a whole or refused with an error that names the option and the
//! piece that is wrong; nothing is ignored.
//!
//! ```
//! use option_parser::{ByteSize, Key, Options, Toggle};
//!
//! let keys = [Key::value("size"), Key::value("shared")];
//! let options = Options::parse("--memory", "size=512M,shared=off", &keys).unwrap();
//! assert_eq!(options.get::<ByteSize>("size").unwrap(), Some(ByteSize(512 << 20)));
//! assert_eq!(options.get::<Toggle>("shared").unwrap(), Some(Toggle(false)));
//! ```

mod error;
mod options;
mod split;
mod value;

pub use error::OptionError;
pub use options::{Key, Options};
pub use split::{SplitError, split};
pub use value::{ByteSize, FromOptionValue, IntegerList, StringList, Toggle};
