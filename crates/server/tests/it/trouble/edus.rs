//! EDUs on their way to a server that does not always take them (R133).

use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::resident::{Asked, Conduct, Resident};

/// The first pause after a failure.
const PAUSE: Duration = Duration::from_secs(600);

async fn newcomer() -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 10).await;
    Newcomer::start(&resident, &ca, "newcomer.test").await
}

impl Newcomer {
    /// Sends a message to the devices of a user of the resident's second name.
    pub(super) async fn tell(&self, words: &str) {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.tell/{words}");
        let user = format!("@somebody:{}", self.resident.names(1));
        let body = json!({ "messages": { user: { "*": { "words": words } } } });
        self.client.put(&path, body).await;
    }

    /// The transactions that the resident was sent.
    fn transactions(&self) -> Vec<Asked> {
        self.resident.asked(self.name(), "send")
    }

    async fn until_sent(&self, times: usize) {
        let sent = self.resident.until_asked(self.name(), "send", times);
        self.wait(PAUSE / 4, sent).await;
    }
}

impl Newcomer {
    /// Fails if anything is sent again after so many transactions.
    async fn has_delivered(self, transactions: usize) {
        self.tell("more").await;
        self.until_sent(transactions + 1).await;
        assert_eq!(edus(&self.transactions()[transactions]).len(), 1);
        self.stop().await;
    }
}

fn edus(transaction: &Asked) -> &Vec<Value> {
    transaction.body["edus"].as_array().unwrap()
}

#[tokio::test]
async fn a_transaction_with_edus_is_repeated_as_it_was() {
    let newcomer = newcomer().await;
    newcomer
        .resident
        .misbehave(None, "send", Conduct::Error(500, "M_UNKNOWN"));
    newcomer.tell("first").await;
    newcomer.until_sent(1).await;
    newcomer.tell("second").await;
    newcomer.until_sent(2).await;
    newcomer.resident.behave();
    newcomer.until_sent(4).await;
    let sent = newcomer.transactions();
    for repeated in &sent[1..3] {
        assert_eq!(repeated.path, sent[0].path);
        assert_eq!(repeated.body, sent[0].body);
    }
    let words = |edu: &Value| {
        let content = &edu["content"];
        let of_user = content["messages"].as_object().unwrap().values().next();
        (
            edu["edu_type"].clone(),
            of_user.unwrap()["*"]["words"].clone(),
        )
    };
    let kind = json!("m.direct_to_device");
    assert_eq!(edus(&sent[0]).len(), 1);
    assert_eq!(words(&edus(&sent[0])[0]), (kind.clone(), json!("first")));
    assert_eq!(edus(&sent[3]).len(), 1);
    assert_eq!(words(&edus(&sent[3])[0]), (kind, json!("second")));
    assert_ne!(sent[3].path, sent[0].path);
    newcomer.stop().await;
}

#[tokio::test]
async fn a_message_to_a_device_elsewhere_survives_a_crash() {
    let newcomer = newcomer().await;
    newcomer
        .resident
        .misbehave(None, "send", Conduct::Error(500, "M_UNKNOWN"));
    newcomer.tell("important").await;
    newcomer.until_sent(1).await;
    let newcomer = newcomer.crash(&[]).await;
    newcomer.resident.behave();
    newcomer.until_sent(2).await;
    let sent = newcomer.transactions();
    // The receiver knows by the ID in it that it is the same.
    assert_eq!(edus(&sent[1]), edus(&sent[0]));
    newcomer.has_delivered(2).await;
}

#[tokio::test]
async fn a_transaction_has_100_edus_at_most_and_is_the_only_one_under_way() {
    let newcomer = newcomer().await;
    let (conduct, release) = Conduct::hold();
    newcomer.resident.misbehave(None, "send", conduct);
    newcomer.tell("0").await;
    newcomer.until_sent(1).await;
    for number in 1..=120 {
        newcomer.tell(&number.to_string()).await;
    }
    release.send_replace(true);
    newcomer.until_sent(3).await;
    let sent = newcomer.transactions();
    let sizes: Vec<_> = sent.iter().map(|sent| edus(sent).len()).collect();
    assert_eq!(sizes, [1, 100, 20]);
    assert!(sent.iter().all(|sent| sent.at_once == 1));
    newcomer.has_delivered(3).await;
}
