//! What the feature views take in frame by frame, and what they ask for when the run, the model or the dictionary is
//! another.

use std::sync::{Arc, Weak};

use crate::analysis::run::Run;
use crate::app::features::Asked;
use crate::app::features::Chosen;
use crate::app::features::FeatureAction;
use crate::app::features::FeaturesState;
use crate::app::features::Watch;
use crate::app::features::heat::heat;
use crate::app::features::monitoring::Continued;
use crate::app::features::monitoring::Follow;
use crate::app::features::polysemantic::rank;
use crate::app::features::polysemantic::split;
use crate::app::shell::notices::Level;
use crate::app::shell::notices::Notices;
use crate::error::{Error, Result};
use crate::features::Dictionary;
use crate::features::reading::{Order, read};
use crate::features::scan::Subject;
use crate::features::scan::index::Index;
use crate::features::scan::index_file;
use crate::jobs::Task;
use crate::jobs::task::Event;
use crate::model::Model;

/// Neurons of a ranking whose groups are split by features.
const SPLIT_NEURONS: usize = 30;

impl FeaturesState {
    /// Takes in what arrived and asks for what follows from the run; true if anything changed.
    pub fn update(
        &mut self,
        model: Option<&Arc<Model>>,
        run: Option<&Arc<Run>>,
        asked: Asked,
        continued: Continued,
        notices: &mut Notices,
    ) -> bool {
        self.asked = asked;
        if self.continued != continued {
            self.continued = continued;
            self.watch_version += u64::from(self.follow != Follow::Prompt);
        }
        let (mut changed, opened) = self.dictionary.update();
        if opened && let Some(d) = self.dictionary.value.clone() {
            self.chosen = None;
            self.read_key = None;
            self.forget_dictionary();
            self.kept.clear();
            self.watch_version += 1;
            let folder = self.keeps.then(|| self.place.clone());
            self.labels.turn_to_dictionary(&d, folder, &self.wake);
        }
        let (labels_changed, labels_there) = self.labels.update(&self.wake);
        changed |= labels_changed;
        self.watch_version += u64::from(labels_there);
        let mut note = |(c, done): (bool, bool)| {
            changed |= c;
            done
        };
        if note(self.reading.update()) {
            self.forget_attribution();
        }
        note(self.attribution.update());
        note(self.heat.update());
        note(self.page.update());
        let neurons = note(self.neurons.update());
        let more_neurons = self.neurons.show_newest_part();
        if (neurons || more_neurons)
            && let Some(index) = self.neurons.value.clone()
        {
            // What was ranked before is shown until then.
            self.ranking.start(&self.wake, move |p, _| rank(&index, p));
        }
        if more_neurons && matches!(self.chosen, Some(Chosen::Neuron(..))) && !self.page.is_running() {
            self.page.reset();
        }
        note(self.ranking.update());
        note(self.splits.update());
        let read_out = note(self.read_out.update());
        self.read_out.show_newest_part();
        let scanned = note(self.index.update());
        self.index.show_newest_part();
        if self.living.0 != self.index.stamp {
            let count = self.index.value.as_ref().map_or(0, |i| i.entries.iter().filter(|e| e.active > 0).count());
            self.living = (self.index.stamp, count);
        }
        if note(self.found.update())
            && let Some(index) = self.found.value.take().and_then(Arc::into_inner).flatten()
            && self.index.value.is_none()
            && !self.index.is_running()
        {
            self.index.set(index);
            self.page.reset();
        }
        if scanned || neurons || read_out {
            self.page.reset();
            notices.push(Level::Info, "The text is scanned.");
        }
        if note(self.arriving.update())
            && let Some(index) = self.arriving.value.take().and_then(Arc::into_inner)
        {
            match self.shelve(index) {
                Ok(what) => notices.push(Level::Info, what),
                Err(e) => notices.push(Level::Error, e.to_string()),
            }
        }
        note(self.monitored.update());
        note(self.doses.update());
        note(self.map.update());
        if note(self.finding.update())
            && let Some(c) = self.finding.value.take()
        {
            let layer = c.best().map_or(0, |b| b.layer);
            notices.push(Level::Info, format!("{}: best at layer {layer}.", c.name));
            self.watched.push(Watch { concept: c, layer, threshold: 0.0 });
            self.watch_version += 1;
            self.chosen.get_or_insert(Chosen::Concept(self.watched.len() - 1));
        }
        note(self.kept_bytes.update());
        let stopped = self.stopping.as_ref().and_then(Task::poll);
        let trains = self.training.is_running();
        let mut trained = note(self.training.update()).then(|| self.training.value.clone()).flatten();
        let mut ended = trains && !self.training.is_running();
        if let Some(Event::Done(outcome)) = stopped {
            self.stopping = None;
            ended = true;
            match outcome {
                // It was done when it was told to stop.
                Ok(done) => trained = trained.or(Some(Arc::new(done))),
                Err(Error::Cancelled) => {}
                Err(e) => notices.push(Level::Error, e.to_string()),
            }
        }
        if ended {
            self.measure_activations();
        }
        if let Some(trained) = trained {
            let quality = trained.quality.as_ref().map_or(String::new(), |q| {
                let (r, dead) = (&q.after_first, 100.0 * q.dead);
                format!(
                    ": explained variance {:.3} at L0 {:.1} on held-out text, {dead:.1} % dead",
                    r.explained_variance, r.l0
                )
            });
            let folder = trained.folder.display().to_string();
            notices.push(Level::Info, format!("The dictionary is trained{quality}; it lies in {folder}."));
            self.apply(FeatureAction::Open(folder), model, run, notices);
        }
        while let Ok(text) = self.asides.1.try_recv() {
            notices.push(Level::Info, text);
        }
        for error in [
            self.dictionary.error.take_if(|_| self.dictionary.value.is_some()),
            self.found.error.take(),
            self.splits.error.take(),
            self.ranking.error.take(),
            self.arriving.error.take(),
            self.finding.error.take(),
            self.training.error.take(),
            self.kept_bytes.error.take(),
        ]
        .into_iter()
        .flatten()
        .chain(self.labels.take_errors())
        {
            notices.push(Level::Error, error);
        }
        if let Some(model) = model {
            if !self.model.upgrade().is_some_and(|m| Arc::ptr_eq(&m, model)) {
                self.model = Arc::downgrade(model);
                self.forget_model();
                let aside = std::mem::take(&mut self.set_aside);
                (self.watched, self.set_aside) = aside.into_iter().partition(|w| w.concept.check(model).is_ok());
                let folder = self.keeps.then(|| self.place.clone());
                self.labels.turn_to_model(model, folder, &self.wake);
                if self.keeps {
                    self.measure_activations();
                }
                changed = true;
            }
            if run.is_none() {
                (self.read_key, self.monitor_key) = (None, None);
                self.reading.reset();
                self.forget_reading();
                self.monitored.reset();
            }
            self.seek(model);
            self.follow(model, run);
            if run.is_some()
                && !self.is_busy()
                && let Some(next) = self.queue.pop_front()
            {
                self.apply(next, Some(model), run, notices);
                changed = true;
            }
        }
        changed
    }

    /// Puts an index that was opened where it belongs: to neurons, to a direction in the list, to the dictionary.
    fn shelve(&mut self, index: Index) -> Result<String> {
        let what = format!("Opened the index of {}: {} positions.", index.about.subject, index.about.positions);
        let of = index.about.subject_hash;
        let is_of = |w: &Watch| Subject::Direction(w.concept.clone(), w.layer).hash().is_ok_and(|hash| hash == of);
        // What is being scanned for the same place gives way.
        if index.about.is_of_neurons() {
            self.neurons.stop();
            self.neurons.set(index);
            if let Some(index) = self.neurons.value.clone() {
                self.ranking.start(&self.wake, move |p, _| rank(&index, p));
            }
        } else if let Some(w) = self.watched.iter().find(|w| is_of(w)) {
            self.read_out_of = Some((w.concept.clone(), w.layer));
            self.read_out.stop();
            self.read_out.set(index);
        } else {
            // Without a dictionary its examples are looked at by number.
            if let Some(d) = self.dictionary.value.clone()
                && (Subject::Features(d.clone()).hash()? != of
                    || d.input.is_some_and(|p| p.to_string() != index.about.site))
            {
                return Err(Error::request(format!(
                    "the index is of {}, {} features at {}, and neither of {} nor of a direction in the list; open what was scanned first",
                    index.about.subject,
                    index.entries.len(),
                    index.about.site,
                    d.name
                )));
            }
            self.index.stop();
            self.index.set(index);
        }
        self.page.reset();
        Ok(what)
    }

    /// Looks for a scan of the dictionary that was made before.
    fn seek(&mut self, model: &Arc<Model>) {
        let Some(d) = self.dictionary.value.clone().filter(|d| self.keeps && d.input.is_some()) else { return };
        let same = |(m, k): &(Weak<Model>, Arc<Dictionary>)| m.as_ptr() == Arc::as_ptr(model) && Arc::ptr_eq(k, &d);
        if self.sought.as_ref().is_some_and(same) {
            return;
        }
        self.sought = Some((Arc::downgrade(model), d.clone()));
        let (place, model) = (self.scans.clone(), model.clone());
        self.found.start(&self.wake, move |_, _| {
            let newest = crate::features::scan::kept::newest(&place, &model, &Subject::Features(d))?;
            newest.map(|p| index_file::open(&p)).transpose()
        });
    }

    /// Reads the run with the dictionary and the directions, and makes the page of what is chosen.
    fn follow(&mut self, model: &Arc<Model>, run: Option<&Arc<Run>>) {
        if let (Some(d), Some(run)) = (self.dictionary.value.clone(), run) {
            let same = |(r, k): &(Arc<Run>, Arc<Dictionary>)| Arc::ptr_eq(r, run) && Arc::ptr_eq(k, &d);
            if !self.read_key.as_ref().is_some_and(same) {
                self.read_key = Some((run.clone(), d.clone()));
                let trace = run.trace.clone();
                self.reading.start(&self.wake, move |p, _| read(d, trace, p));
            }
            self.draw();
        }
        if let Some(run) = run {
            let wanted = !self.watched.is_empty() || !self.kept.is_empty();
            if !wanted && (self.monitored.value.is_some() || self.monitored.is_running()) {
                self.monitored.reset();
                self.monitor_key = None;
            }
            let same_run = |(r, _): &(Arc<Run>, u64)| Arc::ptr_eq(r, run);
            let same = |k: &(Arc<Run>, u64)| same_run(k) && k.1 == self.watch_version;
            // While text is being generated, one reading ends before the next begins.
            let waits = self.monitored.is_running() && self.monitor_key.as_ref().is_some_and(same_run);
            if wanted && !waits && !self.monitor_key.as_ref().is_some_and(same) {
                self.monitor_key = Some((run.clone(), self.watch_version));
                self.monitor(model, run);
            }
        }
        self.tell_apart(model);
        if let Some(chosen) = self.chosen
            && self.page.value.as_ref().is_none_or(|p| p.chosen != chosen)
            && !self.page.is_running()
            && self.page.error.is_none()
        {
            self.turn_to(chosen, model);
        }
    }

    /// Asks for the features that tell the groups of the first neurons' examples apart.
    fn tell_apart(&mut self, model: &Arc<Model>) {
        let (Some(r), Some(d)) = (self.ranking.value.clone(), self.dictionary.value.clone()) else { return };
        let same = |(stamp, k): &(u64, Arc<Dictionary>)| *stamp == self.ranking.stamp && Arc::ptr_eq(k, &d);
        if self.ranking.is_running() || self.split_key.as_ref().is_some_and(same) {
            return;
        }
        self.split_key = Some((self.ranking.stamp, d.clone()));
        self.splits.reset();
        if !r.index.about.is_complete() || d.check(&model.config).is_err() {
            return;
        }
        let model = model.clone();
        self.splits.start(&self.wake, move |p, parts| {
            p.expect(r.neurons.len().min(SPLIT_NEURONS) as u64);
            r.neurons.iter().take(SPLIT_NEURONS).try_for_each(|(n, groups)| {
                let Some(entry) = r.index.entries.get(*n) else { return Ok(()) };
                parts.send((*n, split(&model, &d, &entry.top, groups, p)?));
                p.step(1)
            })
        });
    }

    /// What was attributed belongs to the reading before.
    fn forget_attribution(&mut self) {
        self.attribution.reset();
        self.attribution_key = None;
    }

    /// Asks for the heatmap, and for the attribution that it is to be ordered by.
    fn draw(&mut self) {
        let Some(reading) = self.reading.value.clone().filter(|_| !self.reading.is_running()) else { return };
        let (order, Asked { answer, wrong, .. }) = (self.order(), self.asked);
        let answers = order == Order::Answer;
        let of = (self.reading.stamp, answer, wrong);
        if answers && self.attribution_key != Some(of) {
            self.attribution_key = Some(of);
            self.attribution.reset();
            let reading = reading.clone();
            self.attribution.start(&self.wake, move |p, _| {
                let answer = answer.ok_or_else(|| Error::request("there is no answer yet; type one at the top"))?;
                reading.attribution(answer, wrong, p)
            });
        }
        let attribution = self.attribution.value.clone().filter(|_| answers && !self.attribution.is_running());
        let key = (self.reading.stamp, order, attribution.as_ref().map_or(0, |_| self.attribution.stamp));
        // One picture is finished before the next is begun, so that a held key shows some of them.
        if self.heat_key == Some(key) || self.heat.is_running() || answers && attribution.is_none() {
            return;
        }
        self.heat_key = Some(key);
        self.heat.start(&self.wake, move |p, _| heat(reading, order, (answer, wrong), attribution, p));
    }
}
