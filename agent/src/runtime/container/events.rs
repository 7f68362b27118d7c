//! Follows containerd's events.

use std::time::Duration;

use containerd_client::{
    events::TaskExit,
    services::v1::{PublishRequest, SubscribeRequest, events_client::EventsClient},
    types::Envelope,
};
use prost::Message;
use tokio::{sync::broadcast, task::JoinHandle};
use tonic::{Status, Streaming, transport::Channel};

use super::api::{any, failed, request};
use crate::runtime::{RuntimeError, RuntimeEvent};

/// Topic of our own that shows that a subscription is in place.
const MARKER: &str = "/capsule/subscribed";
/// Between markers.
const MARK: Duration = Duration::from_millis(5);
/// Between attempts to subscribe again.
const RETRY: Duration = Duration::from_millis(50);

/// Subscribes, then translates events in a task of its own. What happens after this resolves is
/// seen, or [`RuntimeEvent::Reconnected`] is sent.
pub(super) async fn follow(
    channel: Channel,
    sender: broadcast::Sender<RuntimeEvent>,
) -> Result<JoinHandle<()>, RuntimeError> {
    let first = subscribe(&channel).await.map_err(|status| failed("subscribe to events", status))?;
    Ok(tokio::spawn(run(channel, first, sender)))
}

async fn run(channel: Channel, mut stream: Streaming<Envelope>, sender: broadcast::Sender<RuntimeEvent>) {
    loop {
        while let Ok(Some(envelope)) = stream.message().await {
            if let Some(event) = translate(&envelope) {
                // Nobody may be listening yet.
                let _ = sender.send(event);
            }
        }
        stream = loop {
            tokio::time::sleep(RETRY).await;
            if let Ok(stream) = subscribe(&channel).await {
                break stream;
            }
        };
        let _ = sender.send(RuntimeEvent::Reconnected);
    }
}

/// containerd sends no headers before the first event, so the call alone does not tell when the
/// subscription is in place. Events of our own, published until one comes back, do.
async fn subscribe(channel: &Channel) -> Result<Streaming<Envelope>, Status> {
    let mut subscriber = EventsClient::new(channel.clone());
    let filters = ["/tasks/exit", MARKER].map(|topic| format!("topic==\"{topic}\"")).to_vec();
    let opening = subscriber.subscribe(request(SubscribeRequest { filters }));
    tokio::pin!(opening);
    let mut publisher = EventsClient::new(channel.clone());
    loop {
        let marker = async {
            let event = Some(any("containerd.events.TaskExit", Vec::new()));
            let _ = publisher.publish(request(PublishRequest { topic: MARKER.to_owned(), event })).await;
            tokio::time::sleep(MARK).await;
        };
        tokio::select! {
            stream = &mut opening => return Ok(stream?.into_inner()),
            () = marker => {}
        }
    }
}

/// Exits of tasks; those of execs are waited for one by one.
fn translate(envelope: &Envelope) -> Option<RuntimeEvent> {
    if envelope.topic == MARKER {
        return None;
    }
    let exit = TaskExit::decode(envelope.event.as_ref()?.value.as_slice()).ok()?;
    if exit.id != exit.container_id {
        return None;
    }
    Some(RuntimeEvent::Exited { name: exit.container_id.parse().ok()?, pid: exit.pid })
}
