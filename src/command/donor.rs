//! One donor run: the list of steps of `docs/design.md`, in its words.
