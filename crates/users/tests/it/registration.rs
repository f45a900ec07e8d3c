use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{AuthData, Challenge, Registered, Registration, Stage, UserError, Users};
use std::time::Duration;

use crate::users;

fn request(username: &str, auth: Option<AuthData>) -> Registration {
    Registration {
        username: Some(username.to_owned()),
        password: Some("secret".to_owned()),
        auth,
        ..Registration::default()
    }
}

fn auth(stage: Stage, session: Option<&str>, token: Option<&str>) -> Option<AuthData> {
    Some(AuthData {
        stage: Some(stage.name().to_owned()),
        session: session.map(str::to_owned),
        token: token.map(str::to_owned),
        ..AuthData::default()
    })
}

async fn challenge(users: &Users, request: Registration) -> Challenge {
    match users.register(request).await {
        Err(UserError::Challenge(challenge)) => *challenge,
        other => panic!("expected a challenge, got {other:?}"),
    }
}

#[tokio::test]
async fn an_open_server_asks_for_the_dummy_stage_and_registers() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, true).await;
        let asked = challenge(&users, request("alice", None)).await;
        assert_eq!(asked.flows, [[Stage::Dummy]]);
        assert_eq!((asked.completed, asked.refused), (vec![], None));
        let answer = auth(Stage::Dummy, Some(&asked.session), None);
        let registered = users.register(request("alice", answer)).await.unwrap();
        let Registered::LoggedIn(login) = registered else {
            panic!("a session was wanted");
        };
        assert_eq!(login.user_id, "@alice:example.org");
        let requester = users.authenticate(&login.access_token).await.unwrap();
        let requester = requester.expect("the token works");
        assert_eq!(requester.device_id.as_str(), login.device_id);
        assert!(!requester.admin);
    })
    .await;
}

#[tokio::test]
async fn a_closed_server_registers_nobody() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let dummy = auth(Stage::Dummy, None, None);
        for attempt in [None, dummy] {
            let refused = users.register(request("alice", attempt)).await;
            assert!(
                matches!(refused, Err(UserError::Forbidden(_))),
                "{refused:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_first_token_makes_one_administrator_even_on_a_closed_server() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let token = users
            .first_account_token()
            .await
            .unwrap()
            .expect("no account yet");
        let again = users.first_account_token().await.unwrap();
        assert_eq!(
            again.as_deref(),
            Some(&*token),
            "a restart prints the same token"
        );
        assert!(
            users
                .is_valid_registration_token(token.clone())
                .await
                .unwrap()
        );

        let asked = challenge(&users, request("admin", None)).await;
        assert_eq!(asked.flows, [[Stage::RegistrationToken]]);
        let wrong = auth(
            Stage::RegistrationToken,
            Some(&asked.session),
            Some("wrong"),
        );
        let asked = challenge(&users, request("admin", wrong)).await;
        assert!(asked.refused.is_some() && asked.completed.is_empty());
        let right = auth(Stage::RegistrationToken, Some(&asked.session), Some(&token));
        let Registered::LoggedIn(login) = users.register(request("admin", right)).await.unwrap()
        else {
            panic!("a session was wanted");
        };
        let requester = users.authenticate(&login.access_token).await.unwrap();
        assert!(requester.expect("the token works").admin);

        assert!(
            !users
                .is_valid_registration_token(token.clone())
                .await
                .unwrap()
        );
        assert_eq!(users.first_account_token().await.unwrap(), None);
        let late = auth(Stage::RegistrationToken, None, Some(&token));
        let refused = users.register(request("second", late)).await;
        assert!(
            matches!(refused, Err(UserError::Forbidden(_))),
            "{refused:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn of_two_who_share_a_one_time_token_one_gets_an_account() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let token = users
            .first_account_token()
            .await
            .unwrap()
            .expect("no account yet");
        let attempt = |name: &'static str| {
            users.register(request(
                name,
                auth(Stage::RegistrationToken, None, Some(&token)),
            ))
        };
        let (one, other) = tokio::join!(attempt("one"), attempt("other"));
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    })
    .await;
}

#[tokio::test]
async fn a_failed_registration_leaves_the_token_unused() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let token = users
            .first_account_token()
            .await
            .unwrap()
            .expect("no account yet");
        let mut bad = request("alice", auth(Stage::RegistrationToken, None, Some(&token)));
        bad.password = Some(String::new());
        assert!(matches!(
            users.register(bad).await,
            Err(UserError::InvalidParam(_))
        ));
        assert!(users.is_valid_registration_token(token).await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn stages_done_in_a_session_need_not_be_done_again() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, true).await;
        let mut unready = request("alice", auth(Stage::Dummy, None, None));
        unready.password = Some(String::new());
        assert!(users.register(unready).await.is_err());
        let asked = challenge(&users, request("alice", None)).await;
        let mut unready = request("alice", auth(Stage::Dummy, Some(&asked.session), None));
        unready.password = Some(String::new());
        assert!(users.register(unready).await.is_err());
        let only_the_session = AuthData {
            session: Some(asked.session.clone()),
            ..AuthData::default()
        };
        let done = users
            .register(request("alice", Some(only_the_session.clone())))
            .await;
        assert!(done.is_ok(), "{done:?}");
        let asked = challenge(&users, request("bob", Some(only_the_session))).await;
        assert!(
            asked.completed.is_empty(),
            "a session is good for one account"
        );
    })
    .await;
}

#[tokio::test]
async fn sessions_do_not_last_for_ever() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, true).await;
        let asked = challenge(&users, request("alice", None)).await;
        fresh.env.clock.advance(Duration::from_secs(3600));
        let late = AuthData {
            session: Some(asked.session.clone()),
            ..AuthData::default()
        };
        let again = challenge(&users, request("alice", Some(late))).await;
        assert_ne!(again.session, asked.session);
    })
    .await;
}

#[tokio::test]
async fn names_are_checked_before_anything_else_is_asked() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, true).await;
        let first = request("alice", auth(Stage::Dummy, None, None));
        users.register(first).await.unwrap();
        for taken in ["alice", "ALICE"] {
            let refused = users.register(request(taken, None)).await;
            assert!(
                matches!(refused, Err(UserError::UserInUse)),
                "{taken}: {refused:?}"
            );
            let refused = users.available(taken).await;
            assert!(
                matches!(refused, Err(UserError::UserInUse)),
                "{taken}: {refused:?}"
            );
        }
        let long = "x".repeat(250);
        for wrong in [
            "",
            "a b",
            "a:b",
            "a@b",
            "ä",
            "a\0",
            "@alice:example.org",
            &long,
        ] {
            let refused = users.register(request(wrong, None)).await;
            assert!(
                matches!(refused, Err(UserError::InvalidUsername(_))),
                "{wrong}: {refused:?}"
            );
        }
        assert_eq!(
            users.available("Bob.1_=-/+").await.unwrap(),
            "@bob.1_=-/+:example.org"
        );
    })
    .await;
}

#[tokio::test]
async fn without_a_name_the_server_chooses_one_and_no_session_need_begin() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, true).await;
        let anonymous = Registration {
            auth: auth(Stage::Dummy, None, None),
            inhibit_login: true,
            ..Registration::default()
        };
        let Registered::Account(user) = users.register(anonymous).await.unwrap() else {
            panic!("no session was wanted");
        };
        let list = users.device_list(&user).await.unwrap();
        assert_eq!(list.devices, []);
    })
    .await;
}

#[tokio::test]
async fn a_stage_that_nobody_knows_is_refused() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, true).await;
        let unknown = AuthData {
            stage: Some("m.login.recaptcha".to_owned()),
            ..AuthData::default()
        };
        let asked = challenge(&users, request("alice", Some(unknown))).await;
        assert!(asked.refused.is_some());
        let no_token = auth(Stage::RegistrationToken, Some(&asked.session), None);
        let refused = users.register(request("alice", no_token)).await;
        assert!(
            matches!(refused, Err(UserError::MissingParam("token"))),
            "{refused:?}"
        );
    })
    .await;
}
