//! The `Events` service.

use std::pin::Pin;

use capsule_proto::v1::{self, events_server};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Events;

/// Events that wait for the network to take them.
const STREAM_BACKLOG: usize = 64;

#[tonic::async_trait]
impl events_server::Events for Events {
    type ListStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filter = request.into_inner();
        let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
        let events = self.clone();
        tokio::spawn(async move {
            if let Err(status) = send_all(&events, filter, &sender).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

type Sender = mpsc::Sender<Result<v1::Event, Status>>;

/// The table is the truth; the live channel only says that it is time to look.
async fn send_all(events: &Events, mut filter: v1::ListEventsRequest, to: &Sender) -> Result<(), Status> {
    let mut live = events.subscribe();
    // None of the past: what comes after the last one counts.
    if filter.tail == Some(0) {
        let last = events.kept(v1::ListEventsRequest { tail: Some(1), ..filter.clone() }).await?;
        filter.after_sequence = last.first().map_or(filter.after_sequence, |event| event.sequence);
    }
    loop {
        for event in events.kept(filter.clone()).await? {
            filter.after_sequence = event.sequence;
            if to.send(Ok(event)).await.is_err() {
                return Ok(());
            }
        }
        if !filter.follow {
            return Ok(());
        }
        filter.tail = None;
        tokio::select! {
            () = to.closed() => return Ok(()),
            woken = live.recv() => if let Err(tokio::sync::broadcast::error::RecvError::Closed) = woken { return Ok(()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::NewEvent, store::Store};

    #[tokio::test]
    async fn who_wants_nothing_of_the_past_is_told_of_what_comes() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::start(Store::open(dir.path()).unwrap());
        events.emit(NewEvent::new("node", "", "Old", "it was"));
        while events.kept(v1::ListEventsRequest::default()).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let (sender, mut receiver) = mpsc::channel(1);
        let filter = v1::ListEventsRequest { follow: true, tail: Some(0), ..Default::default() };
        let sending = tokio::spawn({
            let events = events.clone();
            async move { send_all(&events, filter, &sender).await }
        });
        // The first may come before anybody listens.
        let first = loop {
            events.emit(NewEvent::new("node", "", "New", "it is"));
            let pause = std::time::Duration::from_millis(20);
            if let Ok(message) = tokio::time::timeout(pause, receiver.recv()).await {
                break message.unwrap().unwrap();
            }
        };
        assert_eq!(first.reason, "New");
        sending.abort();
    }
}
