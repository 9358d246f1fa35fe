//! Every limit a client can meet, in one place, so that the documentation, the errors and the checks agree.

/// Bytes of a user, item, session or recommendation id.
pub const ID_BYTES_MAX: usize = 256;
/// Bytes of a client's event id.
pub const EVENT_ID_BYTES_MAX: usize = 64;
/// Bytes of a tenant name.
pub const TENANT_BYTES_MAX: usize = 63;
/// Bytes of an event type, a category, a context or attribute key.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a free text field: title, attribute or context value.
pub const TEXT_BYTES_MAX: usize = 2_048;
/// Bytes of an item's description.
pub const DESCRIPTION_BYTES_MAX: usize = 16_384;
/// Categories of an item.
pub const CATEGORIES_MAX: usize = 64;
/// Context entries of an event, attributes of a user or item.
pub const ATTRIBUTES_MAX: usize = 64;
/// Events, users or items of one batch.
pub const BATCH_MAX: usize = 10_000;
/// Bytes of one request.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Blocked items of one user.
pub const BLOCKS_MAX: usize = 10_000;
/// Items of one answer.
pub const ANSWER_ITEMS_MAX: u32 = 1_000;
/// Excluded ids of one query.
pub const EXCLUDE_MAX: usize = 10_000;
/// How far a timestamp may lie in the future: clocks of clients are wrong, but not by more than a day.
pub const FUTURE_MS_MAX: i64 = 86_400_000;
/// Bytes of one internal message; larger results are paged.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;
