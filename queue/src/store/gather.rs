//! Calls that would each send a little, put together.
//!
//! While calls for a key are on their way, further ones gather; when an answer is there, they go out together as the next. A
//! lone call is sent at once, and there is no timer: batches grow with load by themselves.
//!
//! A caller that finds fewer on their way than may be starts a task, which sends what has gathered, batch after batch, until
//! nothing is left. The task does not belong to that caller: one that goes away takes nobody's call with it. What it had handed
//! over is sent if its turn had come, and forgotten otherwise, so that no more is held than living callers have handed over.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// How much goes out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Calls on their way at once, for one key.
    pub(crate) calls: usize,
    /// Items in one call.
    pub(crate) items: usize,
    /// What they weigh together. One caller's items go out together, whatever they weigh.
    pub(crate) weight: usize,
}

/// What one caller handed over, and where the answers to it go.
struct Waiting<T, A, E> {
    number: u64,
    items: Vec<T>,
    weight: usize,
    answer: oneshot::Sender<Result<Vec<A>, E>>,
}

/// What gathers for one key.
struct Gathered<T, A, E> {
    senders: usize,
    waiting: VecDeque<Waiting<T, A, E>>,
}

struct State<K, T, A, E> {
    numbers: u64,
    /// A key is here as long as somebody sends for it.
    keys: HashMap<K, Gathered<T, A, E>>,
}

impl<K: Eq + Hash, T, A, E> State<K, T, A, E> {
    fn sends_less(&mut self, key: &K) {
        if let Some(gathered) = self.keys.get_mut(key) {
            gathered.senders -= 1;
            if gathered.senders == 0 {
                // Whoever waits all the same, after the last sender was torn off, learns that nothing comes.
                self.keys.remove(key);
            }
        }
    }
}

/// Puts calls for the same key together. Items are of type `T`, each is answered with an `A`, or all with an error `E`.
pub(crate) struct Gather<K, T, A, E> {
    limits: Limits,
    state: Mutex<State<K, T, A, E>>,
}

/// The task that sends ended without answering: its runtime is shutting down, or it panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Abandoned;

impl<K, T, A, E> Gather<K, T, A, E> {
    fn state(&self) -> MutexGuard<'_, State<K, T, A, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, T, A, E> Gather<K, T, A, E> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::new(State { numbers: 0, keys: HashMap::new() }) }
    }

    /// Hands items over and waits for the answers to them, in their order. `send` sends a batch and answers for each of its
    /// items; it is the same whoever calls. An error is everybody's whose items were in the batch.
    ///
    /// Dropping the future takes the items back if they have not gone out yet.
    pub(crate) async fn call<S, F>(
        self: &Arc<Self>,
        key: &K,
        items: Vec<T>,
        weight: usize,
        send: S,
    ) -> Result<Result<Vec<A>, E>, Abandoned>
    where
        K: Clone + Send + 'static,
        T: Send + 'static,
        A: Send + 'static,
        E: Clone + Send + 'static,
        S: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = Result<Vec<A>, E>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let (number, sender) = self.hand_over(key, items, weight, answer);
        let mut handed_over = HandedOver { gather: self, key, number: Some(number) };
        if let Some(sender) = sender {
            tokio::spawn(sender.run(send));
        }
        let answer = answered.await.map_err(|_| Abandoned);
        handed_over.number = None;
        answer
    }

    fn hand_over(
        self: &Arc<Self>,
        key: &K,
        items: Vec<T>,
        weight: usize,
        answer: oneshot::Sender<Result<Vec<A>, E>>,
    ) -> (u64, Option<Sender<K, T, A, E>>)
    where
        K: Clone,
    {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        let waiting = Waiting { number, items, weight, answer };
        let senders = match state.keys.get_mut(key) {
            Some(gathered) => {
                gathered.waiting.push_back(waiting);
                &mut gathered.senders
            }
            None => {
                let gathered = Gathered { senders: 0, waiting: VecDeque::from([waiting]) };
                &mut state.keys.entry(key.clone()).or_insert(gathered).senders
            }
        };
        let more = *senders < self.limits.calls;
        *senders += usize::from(more);
        (number, more.then(|| Sender { gather: Arc::clone(self), key: key.clone(), done: false }))
    }

    /// The next batch of a key; with nothing left, one sends less for it.
    fn take(&self, key: &K) -> Option<Vec<Waiting<T, A, E>>> {
        let mut state = self.state();
        let gathered = state.keys.get_mut(key)?;
        if gathered.waiting.is_empty() {
            state.sends_less(key);
            return None;
        }
        let (mut count, mut weight, mut callers) = (0, 0, 0);
        for waiting in &gathered.waiting {
            count += waiting.items.len();
            weight += waiting.weight;
            if callers > 0 && (count > self.limits.items || weight > self.limits.weight) {
                break;
            }
            callers += 1;
        }
        Some(gathered.waiting.drain(..callers).collect())
    }
}

/// A caller that waits. Dropped before it was answered, it takes its items back.
struct HandedOver<'a, K: Eq + Hash, T, A, E> {
    gather: &'a Gather<K, T, A, E>,
    key: &'a K,
    number: Option<u64>,
}

impl<K: Eq + Hash, T, A, E> Drop for HandedOver<'_, K, T, A, E> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut state = self.gather.state();
            let Some(gathered) = state.keys.get_mut(self.key) else { return };
            // In order of their numbers, since they are given out under the same lock.
            if let Ok(at) = gathered.waiting.binary_search_by_key(&number, |waiting| waiting.number) {
                gathered.waiting.remove(at);
            }
        }
    }
}

/// Sends what gathers for one key, until nothing is left or it is torn off.
struct Sender<K: Eq + Hash, T, A, E> {
    gather: Arc<Gather<K, T, A, E>>,
    key: K,
    done: bool,
}

impl<K: Eq + Hash, T, A, E: Clone> Sender<K, T, A, E> {
    async fn run<S, F>(mut self, send: S)
    where
        S: Fn(Vec<T>) -> F,
        F: Future<Output = Result<Vec<A>, E>>,
    {
        while let Some(batch) = self.gather.take(&self.key) {
            let mut callers = Vec::with_capacity(batch.len());
            let mut items = Vec::with_capacity(batch.iter().map(|waiting| waiting.items.len()).sum());
            for waiting in batch {
                callers.push((waiting.items.len(), waiting.answer));
                items.extend(waiting.items);
            }
            // A caller that went away is not there to be answered.
            match send(items).await {
                Ok(answers) => {
                    let mut answers = answers.into_iter();
                    for (count, caller) in callers {
                        let _ = caller.send(Ok(answers.by_ref().take(count).collect()));
                    }
                }
                Err(error) => {
                    for (_, caller) in callers {
                        let _ = caller.send(Err(error.clone()));
                    }
                }
            }
        }
        self.done = true;
    }
}

impl<K: Eq + Hash, T, A, E> Drop for Sender<K, T, A, E> {
    fn drop(&mut self) {
        if !self.done {
            self.gather.state().sends_less(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, task::Poll};

    use futures::{FutureExt, poll};
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    type Batches = mpsc::UnboundedSender<Vec<u32>>;
    type Numbers = Gather<&'static str, u32, u32, String>;

    const LIMITS: Limits = Limits { calls: 1, items: 5, weight: 100 };

    /// A server that shows the batches that reach it, and answers each with its numbers doubled when it is let.
    #[derive(Clone)]
    struct Server {
        batches: Batches,
        answers: Arc<Semaphore>,
    }

    impl Server {
        fn new() -> (Self, mpsc::UnboundedReceiver<Vec<u32>>) {
            let (batches, rx) = mpsc::unbounded_channel();
            (Self { batches, answers: Arc::new(Semaphore::new(0)) }, rx)
        }

        async fn answer(self, items: Vec<u32>) -> Result<Vec<u32>, String> {
            self.batches.send(items.clone()).unwrap();
            self.answers.acquire().await.unwrap().forget();
            match items.contains(&13) {
                true => Err("unlucky".into()),
                false => Ok(items.iter().map(|item| item * 2).collect()),
            }
        }
    }

    fn call(
        gather: &Arc<Numbers>,
        server: &Server,
        items: &[u32],
        weight: usize,
    ) -> impl Future<Output = Result<Result<Vec<u32>, String>, Abandoned>> + Send + use<> {
        let (gather, server, items) = (Arc::clone(gather), server.clone(), items.to_vec());
        async move { gather.call(&"key", items, weight, move |items| server.clone().answer(items)).await }
    }

    fn setup() -> (Arc<Numbers>, Server, mpsc::UnboundedReceiver<Vec<u32>>) {
        let (server, batches) = Server::new();
        (Arc::new(Gather::new(LIMITS)), server, batches)
    }

    #[tokio::test]
    async fn a_lone_call_goes_out_at_once_and_what_comes_meanwhile_goes_out_together() {
        let (gather, server, mut batches) = setup();
        let first = tokio::spawn(call(&gather, &server, &[1], 1));
        assert_eq!(batches.recv().await.unwrap(), [1]);
        let mut second = Box::pin(call(&gather, &server, &[2, 3], 1));
        let mut third = Box::pin(call(&gather, &server, &[4], 1));
        assert_eq!((poll!(&mut second), poll!(&mut third)), (Poll::Pending, Poll::Pending));
        assert!(batches.try_recv().is_err());
        server.answers.add_permits(1);
        assert_eq!(batches.recv().await.unwrap(), [2, 3, 4]);
        server.answers.add_permits(1);
        assert_eq!(first.await.unwrap(), Ok(Ok(vec![2])));
        assert_eq!((second.await, third.await), (Ok(Ok(vec![4, 6])), Ok(Ok(vec![8]))));
        // Nothing is left behind, and the next call is a lone one again.
        server.answers.add_permits(1);
        assert_eq!(call(&gather, &server, &[5], 1).await, Ok(Ok(vec![10])));
        assert_eq!(batches.recv().await.unwrap(), [5]);
        until_forgotten(&gather).await;
    }

    async fn until_forgotten(gather: &Numbers) {
        while !gather.state().keys.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_batch_is_bounded_in_number_and_in_weight() {
        let (gather, server, mut batches) = setup();
        let calls: Vec<(&[u32], usize)> =
            vec![(&[1], 1), (&[2, 3], 1), (&[4, 5, 6], 1), (&[7], 60), (&[8], 60), (&[9; 7], 300), (&[10], 1)];
        let mut waiting: Vec<_> =
            calls.iter().map(|(items, weight)| call(&gather, &server, items, *weight).boxed()).collect();
        for call in &mut waiting {
            assert!(poll!(call).is_pending());
        }
        server.answers.add_permits(calls.len());
        let answers = futures::future::join_all(waiting).await;
        for ((items, _), answer) in calls.iter().zip(answers) {
            assert_eq!(answer.unwrap().unwrap(), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
        let mut seen = Vec::new();
        while let Ok(batch) = batches.try_recv() {
            seen.push(batch);
        }
        assert_eq!(seen, [vec![1, 2, 3], vec![4, 5, 6, 7], vec![8], vec![9; 7], vec![10]]);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_takes_nobody_with_it_and_leaves_nothing_behind() {
        let (gather, server, mut batches) = setup();
        let leader = tokio::spawn(call(&gather, &server, &[1], 1));
        assert_eq!(batches.recv().await.unwrap(), [1]);
        let mut leaver = Box::pin(call(&gather, &server, &[2], 1));
        let mut stayer = Box::pin(call(&gather, &server, &[3], 1));
        assert!(poll!(&mut leaver).is_pending() && poll!(&mut stayer).is_pending());
        // The one whose call is on its way goes, and one that waits.
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        drop(leaver);
        assert_eq!(gather.state().keys["key"].waiting.len(), 1);
        server.answers.add_permits(2);
        assert_eq!(stayer.await, Ok(Ok(vec![6])));
        assert_eq!(batches.recv().await.unwrap(), [3]);
        until_forgotten(&gather).await;
    }

    #[tokio::test]
    async fn an_error_is_told_to_everybody_in_its_batch_and_to_nobody_else() {
        let (gather, server, _batches) = setup();
        let mut waiting: Vec<_> =
            [1, 2, 13, 3, 4, 5, 6].iter().map(|&item| call(&gather, &server, &[item], 1).boxed()).collect();
        for call in &mut waiting {
            assert!(poll!(call).is_pending());
        }
        server.answers.add_permits(9);
        let answers: Vec<bool> =
            futures::future::join_all(waiting).await.into_iter().map(|answer| answer.unwrap().is_ok()).collect();
        assert_eq!(answers, [false, false, false, false, false, true, true]);
    }

    #[tokio::test]
    async fn as_many_calls_are_on_their_way_as_may_be() {
        let (server, mut batches) = Server::new();
        let gather: Arc<Numbers> = Arc::new(Gather::new(Limits { calls: 2, ..LIMITS }));
        let mut waiting: Vec<_> = (1..=4).map(|item| call(&gather, &server, &[item], 1).boxed()).collect();
        for (i, call) in waiting.iter_mut().enumerate() {
            assert!(poll!(call).is_pending());
            match i {
                0 | 1 => assert_eq!(batches.recv().await.unwrap(), [u32::try_from(i).unwrap() + 1]),
                _ => assert!(batches.try_recv().is_err()),
            }
        }
        assert_eq!(gather.state().keys["key"].senders, 2);
        server.answers.add_permits(3);
        for (item, answer) in (1..=4).zip(futures::future::join_all(waiting).await) {
            assert_eq!(answer, Ok(Ok(vec![item * 2])));
        }
        until_forgotten(&gather).await;
    }

    #[tokio::test]
    async fn keys_do_not_wait_for_each_other() {
        let (gather, server, mut batches) = setup();
        let slow = tokio::spawn(call(&gather, &server, &[1], 1));
        assert_eq!(batches.recv().await.unwrap(), [1]);
        let other = gather.call(&"other", vec![2], 1, |items| ready(Ok(items))).await;
        assert_eq!(other, Ok(Ok(vec![2])));
        server.answers.add_permits(1);
        assert_eq!(slow.await.unwrap(), Ok(Ok(vec![2])));
    }

    #[tokio::test]
    async fn a_sender_that_breaks_off_holds_nobody_up() {
        let gather: Arc<Numbers> = Arc::new(Gather::new(LIMITS));
        let broken = gather.call(&"key", vec![1], 1, |_| async { panic!("a defect") }).await;
        assert_eq!(broken, Err(Abandoned));
        assert_eq!(gather.call(&"key", vec![2], 1, |items| ready(Ok(items))).await, Ok(Ok(vec![2])));
    }
}
