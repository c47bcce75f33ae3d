//! How an input of the fuzzer is read: one byte of flags, and the client's segments behind it.

/// Between two segments; a byte that no SMTP text needs.
pub const SEPARATOR: u8 = 0xfe;

/// Bits of the first byte.
pub const STARTTLS: u8 = 1;
pub const PLAINTEXT_AUTH: u8 = 1 << 1;
pub const AUTH_REQUIRED: u8 = 1 << 2;
pub const TLS_REQUIRED: u8 = 1 << 3;
pub const AUTH_SUCCEEDS: u8 = 1 << 4;
pub const SMALL_LIMITS: u8 = 1 << 5;
/// Each segment arrives before the session acts on any of it.
pub const AT_ONCE: u8 = 1 << 6;
/// Each segment arrives byte by byte.
pub const BYTES: u8 = 1 << 7;
