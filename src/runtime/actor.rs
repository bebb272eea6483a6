//! The actor of one linked account. It owns the account's state on one thread; a panic in a request ends that request only.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task;

use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message};
use futures_channel::oneshot;
use futures_util::FutureExt as _;

use crate::domain::error::Error;
use crate::domain::wiping_stack;
use crate::runtime::account::Account;
use crate::runtime::caller::{Admitted, Caller, Needs};
use crate::runtime::core::OWN_PLACES;
use crate::runtime::desk::Desk;
use crate::runtime::gate::Pass;

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Something that a caller asks of one account. It runs on the account's arbiter; what it holds across an `await` is sealed or
/// boxed, never a key or a plaintext inline.
pub(crate) trait Operation: Send + 'static {
    /// What comes back. Secrets in it are behind a box, so that passing it on copies a pointer only.
    type Answer: Send + 'static;

    /// What is being done, for an error that reports a fault.
    const DOING: &'static str;

    /// What it asks of its caller; looked at on the arbiter, when its turn has come.
    const NEEDS: Needs;

    /// Does it.
    fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> impl Future<Output = Result<Self::Answer, Error>>;
}

/// An operation with its caller and the way to answer, type erased for the mailbox.
pub(crate) trait Job: Send {
    /// Runs it to its end and answers. Never panics.
    fn run(self: Box<Self>, account: Rc<Account>) -> LocalFuture;
}

/// A job on its way to an actor. The pass is given back when the job has ended.
pub(crate) struct Work {
    pub(crate) job: Box<dyn Job>,
    pub(crate) pass: Pass<Desk>,
}

/// Asks an actor that has nothing to do to stop.
pub(crate) struct Passivate {
    /// Whether what it kept back is written first, or goes with the account.
    pub(crate) keep: bool,
    pub(crate) done: oneshot::Sender<()>,
}

impl Message for Work {
    type Result = ();
}

impl Message for Passivate {
    type Result = ();
}

impl Message for Stop {
    type Result = ();
}

/// Makes a job of an operation, and the future of its answer.
pub(crate) fn job<O: Operation>(operation: O, caller: Caller) -> (Box<dyn Job>, oneshot::Receiver<Result<O::Answer, Error>>) {
    let (reply, answer) = oneshot::channel();
    (Box::new(Task { operation, caller, reply }), answer)
}

pub(crate) struct AccountActor {
    account: Rc<Account>,
    turns: Rc<Turns>,
}

impl AccountActor {
    pub(crate) fn new(account: Account, context: &mut Context<Self>) -> Self {
        // The gate before the mailbox bounds what is under way, mailbox included; this bound only has to be no smaller.
        context.set_mailbox_capacity(account.core.settings.mailbox_capacity.saturating_add(OWN_PLACES + 1));
        Self { account: Rc::new(account), turns: Rc::default() }
    }
}

impl Actor for AccountActor {
    type Context = Context<Self>;
}

impl Handler<Work> for AccountActor {
    type Result = ();

    fn handle(&mut self, work: Work, _: &mut Context<Self>) {
        let Work { job, pass } = work;
        let request = Wiping(Box::pin(job.run(Rc::clone(&self.account)).map(move |()| drop(pass))));
        self.turns.take(request);
    }
}

impl Handler<Passivate> for AccountActor {
    type Result = ();

    fn handle(&mut self, message: Passivate, context: &mut Context<Self>) {
        let account = Rc::clone(&self.account);
        let address = context.address();
        actix::spawn(async move {
            let retired = AssertUnwindSafe(account.retire(message.keep)).catch_unwind().await;
            if !matches!(retired, Ok(Ok(()))) {
                tracing::warn!(account = %account.handle(), "audit entries could not be written before passivation");
            }
            let _ = address.send(Stop).await;
            // Whoever waits may have given up; the actor stops all the same.
            let _ = message.done.send(());
        });
    }
}

struct Stop;

impl Handler<Stop> for AccountActor {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}

struct Task<O: Operation> {
    operation: O,
    caller: Caller,
    reply: oneshot::Sender<Result<O::Answer, Error>>,
}

impl<O: Operation> Job for Task<O> {
    fn run(self: Box<Self>, account: Rc<Account>) -> LocalFuture {
        Box::pin(async move {
            let Task { operation, caller, reply } = *self;
            let body = async {
                let admitted = caller.admit(&account, O::NEEDS, O::DOING).await?;
                let answer = operation.run(&account, &admitted).await?;
                admitted.again(&account).await?;
                Ok(answer)
            };
            let outcome = AssertUnwindSafe(body).catch_unwind().await;
            let answer = outcome.unwrap_or_else(|_| {
                tracing::error!(account = %account.handle(), doing = O::DOING, "a request panicked; the account is loaded anew");
                account.distrust();
                Err(Error::Internal { doing: O::DOING })
            });
            account.resume_rotation();
            // A caller that dropped its future wants no answer; what it asked for is done all the same.
            let _ = reply.send(answer);
        })
    }
}

/// How much of the stack is wiped after each step of a request: what the layers and the primitives in it leave. A primitive that reaches
/// further down wipes for itself.
pub(crate) const REQUEST_STACK: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 8 * 1024 };

/// A request, each step of which wipes the stack that it used.
struct Wiping(LocalFuture);

impl Future for Wiping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<()> {
        wiping_stack::<REQUEST_STACK, _>(|| self.0.as_mut().poll(context))
    }
}

/// How many steps of one account's requests are run at once before it has to wait for its turn.
const STEPS_AT_ONCE: usize = 4;

/// What of one account waits for its turn on the thread. An actor's mailbox is handled until it is empty, and hundreds of requests may have
/// waited for one commit, so a flooded account would hold up its neighbours; here it goes to the end of the line after every step.
#[derive(Default)]
struct Turns {
    waiting: RefCell<VecDeque<Step>>,
    /// How many steps were run since nothing waited.
    run: Cell<usize>,
    /// How many that were woken may run now.
    granted: Cell<usize>,
    working_off: Cell<bool>,
}

enum Step {
    /// A request that has not begun.
    Begin(Wiping),
    /// One that has something to go on with.
    GoOn(task::Waker),
}

impl Turns {
    /// Runs a request at once as far as it comes, or puts it behind what waits.
    fn take(self: &Rc<Self>, request: Wiping) {
        if self.has_turn() { self.begin(request) } else { self.wait(Step::Begin(request)) }
    }

    fn has_turn(&self) -> bool {
        if self.granted.get() > 0 {
            self.granted.set(self.granted.get() - 1);
            return true;
        }
        let free = self.run.get() < STEPS_AT_ONCE;
        self.run.set(self.run.get() + usize::from(free));
        free
    }

    fn wait(self: &Rc<Self>, step: Step) {
        self.waiting.borrow_mut().push_back(step);
        if !self.working_off.replace(true) {
            actix::spawn(Rc::clone(self).work_off());
        }
    }

    /// Leaves only what has to wait to the arbiter's task queue.
    fn begin(self: &Rc<Self>, mut request: Wiping) {
        let mut context = task::Context::from_waker(task::Waker::noop());
        if Pin::new(&mut request).poll(&mut context).is_pending() {
            // The task is polled once more right away, with a waker of its own.
            actix::spawn(Paced { request, turns: Rc::clone(self), begun: false });
        }
    }

    /// One at a time, and then whatever else the thread has, what comes from other threads included: an ordinary yield would be back
    /// some thirty times before those are looked at.
    async fn work_off(self: Rc<Self>) {
        loop {
            let step = self.waiting.borrow_mut().pop_front();
            match step {
                Some(Step::Begin(request)) => self.begin(request),
                Some(Step::GoOn(waker)) => {
                    self.granted.set(self.granted.get() + 1);
                    waker.wake();
                }
                None => break,
            }
            actix_rt::task::yield_now().await;
        }
        self.working_off.set(false);
        self.run.set(0);
        self.granted.set(0);
    }
}

/// A request that goes on in its account's turns only.
struct Paced {
    request: Wiping,
    turns: Rc<Turns>,
    /// Whether it was polled with a waker.
    begun: bool,
}

impl Future for Paced {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<()> {
        // What it waits for must know its waker before anything else, and then it mostly waits, which takes no time.
        if std::mem::replace(&mut self.begun, true) && !self.turns.has_turn() {
            // Again each time that it is woken: another one may have taken the turn that it was woken for.
            self.turns.wait(Step::GoOn(context.waker().clone()));
            return task::Poll::Pending;
        }
        Pin::new(&mut self.request).poll(context)
    }
}
