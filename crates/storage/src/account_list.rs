//! Accounts as administrators look for them.

use ruma::{OwnedUserId, UserId};

use crate::{
    Row, StorageError, Tx,
    statement::{contains, escaped},
};

/// Which accounts: `$1` is an ID in part, `$2` a display name, `$3` and `$4` bounds of "closed", `$5` and `$6`
/// of "administers", `$7` whether guests are among them.
macro_rules! wanted {
    () => {
        "(CAST($1 AS TEXT) IS NULL OR LOWER(a.user_id) LIKE $1 ESCAPE '\\' OR LOWER(a.display_name) LIKE $2 ESCAPE '\\')
         AND ($3 OR NOT a.deactivated) AND ($4 OR a.deactivated)
         AND ($5 OR NOT a.admin) AND ($6 OR a.admin) AND ($7 OR NOT a.guest)"
    };
}

statements! {
    /// One account.
    DETAILS = "SELECT a.user_id, a.display_name, a.avatar_url, a.admin, a.guest, a.deactivated, a.erased, a.created_ms,
            (SELECT MAX(last_seen_ms) FROM devices d WHERE d.user_id = a.user_id)
        FROM accounts a WHERE a.user_id = $1";
    /// A page of accounts.
    LIST = concat!("SELECT user_id, display_name, avatar_url, admin, guest, deactivated, erased, created_ms, last_seen_ms
        FROM (SELECT a.*, d.last_seen_ms,
            CASE $8 WHEN 'name' THEN a.user_id WHEN 'displayname' THEN COALESCE(a.display_name, '')
                WHEN 'avatar_url' THEN COALESCE(a.avatar_url, '') ELSE '' END AS text_key,
            CASE $8 WHEN 'admin' THEN CASE WHEN a.admin THEN 1 ELSE 0 END
                WHEN 'is_guest' THEN CASE WHEN a.guest THEN 1 ELSE 0 END
                WHEN 'deactivated' THEN CASE WHEN a.deactivated THEN 1 ELSE 0 END
                WHEN 'creation_ts' THEN a.created_ms
                WHEN 'last_seen_ts' THEN COALESCE(d.last_seen_ms, 0) ELSE 0 END AS number_key
            FROM accounts a LEFT JOIN (SELECT user_id, MAX(last_seen_ms) AS last_seen_ms
                FROM devices GROUP BY user_id) d ON d.user_id = a.user_id
            WHERE ", wanted!(), ") AS listed
        ORDER BY CASE WHEN $9 THEN '' ELSE text_key END, CASE WHEN $9 THEN text_key ELSE '' END DESC,
            CASE WHEN $9 THEN 0 ELSE number_key END, CASE WHEN $9 THEN number_key ELSE 0 END DESC, user_id
        LIMIT $10 OFFSET $11");
    /// How many accounts there are of that kind.
    COUNT = concat!("SELECT COUNT(*) FROM accounts a WHERE ", wanted!());
}

/// An account as administrators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDetails {
    /// Whose it is.
    pub user_id: OwnedUserId,
    /// The user's name.
    pub display_name: Option<String>,
    /// The user's picture.
    pub avatar_url: Option<String>,
    /// Whether the user administers the server.
    pub admin: bool,
    /// Whether the user is a guest.
    pub guest: bool,
    /// Whether the account was closed.
    pub deactivated: bool,
    /// Whether what belonged to the user and to no room went with it.
    pub erased: bool,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// When the user's devices were last used, about, in Unix milliseconds.
    pub last_seen_ms: Option<u64>,
}

/// Whom to look for.
#[derive(Clone, Debug, Default)]
pub enum Named {
    /// Anybody.
    #[default]
    Anyhow,
    /// Who has this in the ID's local part or the display name.
    Like(String),
    /// Who has this in the ID.
    WithId(String),
}

/// By what accounts are sorted; the ID decides between equals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    /// The ID.
    #[default]
    Name,
    /// The display name.
    DisplayName,
    /// The picture's address.
    AvatarUrl,
    /// Administrators last.
    Admin,
    /// Guests last.
    Guest,
    /// Closed accounts last.
    Deactivated,
    /// When it was made.
    Created,
    /// When it was used last.
    LastSeen,
    /// Something in which accounts of this server do not differ.
    Nothing,
}

impl SortBy {
    fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::DisplayName => "displayname",
            Self::AvatarUrl => "avatar_url",
            Self::Admin => "admin",
            Self::Guest => "is_guest",
            Self::Deactivated => "deactivated",
            Self::Created => "creation_ts",
            Self::LastSeen => "last_seen_ts",
            Self::Nothing => "",
        }
    }
}

/// Which accounts are wanted, and in which order.
#[derive(Clone, Debug, Default)]
pub struct AccountsWanted {
    /// Whom to look for.
    pub named: Named,
    /// Only closed accounts, or none of them.
    pub deactivated: Option<bool>,
    /// Only administrators, or none of them.
    pub admins: Option<bool>,
    /// No guests.
    pub without_guests: bool,
    /// The order.
    pub sort_by: SortBy,
    /// Whether the order is turned round.
    pub descending: bool,
    /// How many are left out at the beginning.
    pub skip: u64,
    /// How many are wanted at most.
    pub limit: u64,
}

/// One account.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_user(tx: &mut Tx, user: &UserId) -> Result<Option<AccountDetails>, StorageError> {
    let row = tx.query_opt(DETAILS, params![user.as_str()]).await?;
    row.as_ref().map(read).transpose()
}

/// A page of accounts, and how many there are of that kind.
///
/// # Errors
/// Any [`StorageError`].
pub async fn list(
    tx: &mut Tx,
    wanted: &AccountsWanted,
) -> Result<(Vec<AccountDetails>, u64), StorageError> {
    let (id, name) = match &wanted.named {
        Named::Anyhow => (None, None),
        Named::Like(part) => {
            let part = escaped(part);
            (Some(format!("@%{part}%:%")), Some(format!("%{part}%")))
        }
        Named::WithId(part) => (Some(contains(part)), None),
    };
    let (id, name) = (id.as_deref(), name.as_deref());
    let (open, closed) = bounds(wanted.deactivated);
    let (others, admins) = bounds(wanted.admins);
    let guests = !wanted.without_guests;
    let (sort_by, down) = (wanted.sort_by.name(), wanted.descending);
    let (limit, skip) = (wanted.limit, wanted.skip);
    let values = params![
        id, name, closed, open, admins, others, guests, sort_by, down, limit, skip
    ];
    let rows = tx.query(LIST, values).await?;
    let values = params![id, name, closed, open, admins, others, guests];
    let total = tx.query_opt(COUNT, values).await?;
    let total = total.map_or(Ok(0), |row| row.int(0))?.unsigned_abs();
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// Whether those are wanted for whom something is false, and those for whom it is true.
fn bounds(wanted: Option<bool>) -> (bool, bool) {
    (wanted != Some(true), wanted != Some(false))
}

fn read(row: &Row) -> Result<AccountDetails, StorageError> {
    Ok(AccountDetails {
        user_id: row.parsed(0)?,
        display_name: row.opt_text(1)?.map(str::to_owned),
        avatar_url: row.opt_text(2)?.map(str::to_owned),
        admin: row.bool(3)?,
        guest: row.bool(4)?,
        deactivated: row.bool(5)?,
        erased: row.bool(6)?,
        created_ms: row.int(7)?.unsigned_abs(),
        last_seen_ms: row.opt_int(8)?.map(i64::unsigned_abs),
    })
}
