//! Judging what somebody shows of themselves. Client-server API, "User-interactive authentication API".

use crate::{
    AuthData, Challenge, Requester, Stage, UserError, UserIdentifier, Users,
    interactive::{Passed, Purpose, Session},
};

impl UserIdentifier {
    /// The user that is meant: by the identifier, or in the older form.
    ///
    /// # Errors
    /// [`UserError::Unsupported`] for another kind, [`UserError::MissingParam`].
    pub fn user(identifier: Option<Self>, older: Option<String>) -> Result<String, UserError> {
        let user = match identifier {
            Some(identifier) if identifier.kind == "m.id.user" => identifier.user,
            Some(identifier) => {
                let why = format!("This server does not know {:?}", identifier.kind);
                return Err(UserError::Unsupported(why));
            }
            None => older,
        };
        user.ok_or(UserError::MissingParam("identifier.user"))
    }
}

impl Users {
    /// Goes on with an authentication. Returns once all stages of one of `flows` are done.
    ///
    /// # Errors
    /// [`UserError::Challenge`] with what is missing, [`UserError::MissingParam`] for an attempt that can't be
    /// judged, [`UserError::Storage`].
    pub(crate) async fn pass_stages(
        &self,
        purpose: Purpose,
        flows: Vec<Vec<Stage>>,
        auth: Option<AuthData>,
    ) -> Result<Passed, UserError> {
        let auth = auth.unwrap_or_default();
        let env = self.env();
        let (id, mut session) = self
            .sessions()
            .resume(auth.session.as_deref(), purpose, env);
        let refused = self.pass_stage(&mut session, auth).await?;
        self.sessions().keep(&id, &session, env);
        if refused.is_none() && session.satisfies(&flows) {
            return Ok(Passed {
                session: id,
                registration_token: session.registration_token,
            });
        }
        Err(UserError::Challenge(Box::new(Challenge {
            session: id,
            flows,
            completed: session.completed,
            refused,
        })))
    }

    /// Lets somebody do one thing with its account who shows its password. What was shown is good for that
    /// once.
    pub(crate) async fn confirm(
        &self,
        requester: &Requester,
        operation: &'static str,
        things: Vec<String>,
        auth: Option<AuthData>,
    ) -> Result<(), UserError> {
        let purpose = Purpose::Account {
            user: requester.user_id.clone(),
            operation,
            things,
        };
        let flows = vec![vec![Stage::Password]];
        let passed = self.pass_stages(purpose, flows, auth).await?;
        self.sessions().end(&passed.session, self.env());
        Ok(())
    }

    /// Judges one attempt. Returns why it does not count, if so.
    async fn pass_stage(
        &self,
        session: &mut Session,
        auth: AuthData,
    ) -> Result<Option<String>, UserError> {
        match auth.stage.as_deref() {
            None => Ok(None),
            Some("m.login.dummy") => {
                session.complete(Stage::Dummy);
                Ok(None)
            }
            Some("m.login.registration_token") => self.pass_token(session, auth).await,
            Some("m.login.password") => self.pass_password(session, auth).await,
            Some(other) => Ok(Some(format!("This server does not know {other:?}"))),
        }
    }

    async fn pass_token(
        &self,
        session: &mut Session,
        auth: AuthData,
    ) -> Result<Option<String>, UserError> {
        let Some(token) = auth.token else {
            return Err(UserError::MissingParam("token"));
        };
        if !self.is_valid_registration_token(token.clone()).await? {
            let why = "The registration token is not valid (any more)";
            return Ok(Some(why.to_owned()));
        }
        session.registration_token = Some(token);
        session.complete(Stage::RegistrationToken);
        Ok(None)
    }

    /// The password has to be that of the user who asks.
    async fn pass_password(
        &self,
        session: &mut Session,
        auth: AuthData,
    ) -> Result<Option<String>, UserError> {
        let user = UserIdentifier::user(auth.identifier, auth.user)?;
        let password = auth.password.ok_or(UserError::MissingParam("password"))?;
        let wrong = || Ok(Some("Wrong user or password".to_owned()));
        let Purpose::Account { user: owner, .. } = &session.purpose else {
            return wrong();
        };
        if self.local_user(&user).as_ref() != Some(owner) {
            return wrong();
        }
        let account = self.account(owner.clone()).await?;
        let hash = account.and_then(|account| account.password_hash);
        if !self.is_password(Some(owner), password, hash).await? {
            return wrong();
        }
        session.complete(Stage::Password);
        Ok(None)
    }
}
