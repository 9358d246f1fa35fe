//! A click counts at once, consent is immediate: what one node acked holds in the next answer of every other.

use docent_chaos::client::{Client, ids};
use docent_chaos::lab::{Lab, Options};
use serde_json::json;
use std::time::{Duration, Instant};

/// Five nodes: the node that is written to and the node that is asked seldom hold the same replicas.
#[test]
fn what_one_node_acked_holds_in_the_next_answer_of_every_other() {
    let lab = Lab::start(&Options { nodes: 5, coordinators: 1, ..Options::default() }).unwrap();
    lab.docent(&["import", "generated", "--users", "400", "--items", "300", "--events", "12000", "--seed", "11"])
        .unwrap();
    lab.docent(&["train", "--dim", "16", "--epochs", "3", "--wait"]).unwrap();
    let clients: Vec<Client> = (0..5).map(|i| lab.client(i)).collect();
    let users = users(&lab);
    for (i, user) in users.iter().take(10).enumerate() {
        let (writer, reader) = (&clients[i % 5], &clients[(i + 1 + i % 3) % 5]);
        a_click_counts(writer, reader, user, i);
        a_block_holds(writer, &clients, user);
    }
    a_new_item_is_found(&clients, &users[20]);
    a_take_down_holds(&clients, &users[21]);
    an_opt_out_holds(&clients, &users[22]);
    an_erased_user_is_unknown(&clients, &users[23]);
}

fn users(lab: &Lab) -> Vec<String> {
    let exported = lab.docent(&["export", "recommendations", "-n", "1"]).unwrap();
    exported.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
}

fn a_click_counts(writer: &Client, reader: &Client, user: &str, i: usize) {
    let before = reader.recommend(user, 10).unwrap();
    let clicked = ids(&before)[0].clone();
    let event = json!({ "event_id": format!("click-{i}"), "user_id": user, "item_id": clicked, "type": "click" });
    assert_eq!(writer.ingest(&[event]).unwrap(), ["accepted"]);
    let after = reader.recommend(user, 10).unwrap();
    assert!(!ids(&after).contains(&clicked), "{clicked} was seen and is shown again");
    assert_ne!(before["items"][1]["score"], after["items"][0]["score"], "the user's vector did not move");
}

fn a_block_holds(writer: &Client, readers: &[Client], user: &str) {
    let blocked = ids(&readers[0].recommend(user, 5).unwrap())[0].clone();
    let (status, body) = writer.put(&format!("/v1/users/{user}/blocks"), &json!({ "item_ids": [blocked] })).unwrap();
    assert_eq!(status, 200, "{body}");
    for reader in readers {
        assert!(!ids(&reader.recommend(user, 50).unwrap()).contains(&blocked), "{blocked} is blocked and shown");
    }
}

/// A new item of a known category can be returned within a second, by the model and not only as popular.
fn a_new_item_is_found(clients: &[Client], user: &str) {
    let top = clients[0].recommend(user, 1).unwrap();
    let categories = top["items"][0]["item"]["categories"].clone();
    let (status, body) =
        clients[0].put("/v1/items/brand-new", &json!({ "title": "Brand new", "categories": categories })).unwrap();
    assert_eq!(status, 200, "{body}");
    let start = Instant::now();
    for client in clients {
        // A replica follows its leader's commit within a heartbeat; the promise is a second.
        loop {
            let answer = client.recommend(user, 1_000).unwrap();
            let found = answer["items"].as_array().unwrap().iter().find(|item| item["id"] == "brand-new").cloned();
            if found.is_some_and(|item| item["source"] == "model") {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the new item is not found: {answer}");
        }
    }
    println!("the new item was found through all five nodes {} ms after its ack", start.elapsed().as_millis());
}

fn a_take_down_holds(clients: &[Client], user: &str) {
    let shown = ids(&clients[1].recommend(user, 5).unwrap())[0].clone();
    let (status, body) = clients[2].post(&format!("/v1/items/{shown}:take-down"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    for client in clients {
        assert!(!ids(&client.recommend(user, 100).unwrap()).contains(&shown), "{shown} is taken down and shown");
        assert!(
            !ids(&client.get("/v1/popular?n=1000").unwrap().1).contains(&shown),
            "{shown} is taken down and popular"
        );
    }
}

fn an_opt_out_holds(clients: &[Client], user: &str) {
    let consent = json!({ "collect": false, "recommend": false, "train": false });
    let (status, body) = clients[3].put(&format!("/v1/users/{user}/consent"), &consent).unwrap();
    assert_eq!(status, 200, "{body}");
    for client in clients {
        let answer = client.recommend(user, 20).unwrap();
        let is_popular = |item: &serde_json::Value| {
            item["source"] == "popular" && item["reasons"].as_array().is_none_or(Vec::is_empty)
        };
        assert!(
            answer["items"].as_array().unwrap().iter().all(is_popular),
            "a personal answer after the opt-out: {answer}"
        );
    }
    let event = json!({ "event_id": "late", "user_id": user, "item_id": "brand-new", "type": "click" });
    assert_eq!(clients[4].ingest(&[event]).unwrap(), ["not_collected"]);
}

fn an_erased_user_is_unknown(clients: &[Client], user: &str) {
    assert_eq!(clients[0].delete(&format!("/v1/users/{user}")).unwrap().0, 200);
    for client in clients {
        assert_eq!(client.get(&format!("/v1/users/{user}")).unwrap().0, 404);
        let answer = client.recommend(user, 5).unwrap();
        assert!(answer["items"].as_array().unwrap().iter().all(|item| item["source"] == "popular"), "{answer}");
    }
}
