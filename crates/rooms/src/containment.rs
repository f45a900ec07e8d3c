//! Panics, which are bugs, as errors: what works for many must go on when one thing goes wrong.

use futures_util::FutureExt as _;
use myelin_storage::StorageError;

/// Awaits `work`; if it panics, that is [`StorageError::Bug`], which [lasts](StorageError::is_lasting).
///
/// # Errors
/// Those of `work`, and that one.
pub(crate) fn contained<T, E: From<StorageError>>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    let contained = myelin_env::contain(name, work);
    contained.map(|ended| ended.unwrap_or_else(|failed| Err(StorageError::from(failed).into())))
}
