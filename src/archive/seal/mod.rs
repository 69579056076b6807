//! Encryption of what is stored: age to X25519 recipients, whose private keys are never on the donor.
//!
//! The format is that of age (<https://age-encryption.org/v1>), written and read by the `age` crate alone: nothing here
//! touches a key or a cipher. A header wraps a random key for every recipient; the payload is chunks of 64 KiB, each with
//! its own tag, its number and whether it is the last one bound into it. So chunks can be read in any order and on many
//! threads, none can be changed, moved or left out, and a stream that was cut is known by its last chunk.
//!
//! Encryption keeps others from reading; it does not prove who wrote: whoever knows a recipient can encrypt to it.

mod identity;
mod open;
mod recipient;
mod storing;
mod unsealed;
mod window;

pub use identity::Identities;
pub use open::Archive;
pub use recipient::{RECIPIENTS_MAX, Recipient, Recipients};
pub use storing::seal;
pub(super) use storing::{Kept, Sealing, Storing};
pub use unsealed::Unsealed;

/// The raw bytes of a chunk of age's payload.
const CHUNK_BYTES: u64 = 64 << 10;

/// The bytes of a whole chunk as it is stored: with its tag.
const STORED_CHUNK_BYTES: u64 = CHUNK_BYTES + 16;

/// The longest header that is read, in bytes: [`RECIPIENTS_MAX`] recipients take less than half of it.
///
/// A header costs time before anything proves it: each of its lines is parsed, each key tried on each recipient.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Whether the objects of a backup are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// They are stored as they are.
    Open,
    /// They are age files.
    Age,
}

#[cfg(test)]
mod tests;
