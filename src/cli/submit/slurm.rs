//! A job array for Slurm, and the merge behind it.

use super::Plan;
use crate::error::{Error, Result};
use crate::shell::{line, word};

/// Ends a batch script in the printed one.
const END: &str = "END_OF_BATCH";

/// Hands a signal on, and remembers one that says that the time is over.
const TOLD: &str = "child= over= status=0\n\
    trap 'kill -TERM \"$child\"' TERM INT\n\
    trap 'over=1; kill -TERM \"$child\"' USR1\n";
/// Waits for what was begun, which ends with 130 when a signal stopped it. The shell's own `wait` ends at a signal as well.
const AGAIN: &str = "child=$!\n\
    wait \"$child\" || status=$?\n\
    while kill -0 \"$child\" 2>/dev/null; do status=0; wait \"$child\" || status=$?; done\n\
    if [ \"$over\" = 1 ] && [ \"$status\" = 130 ]; then\n\
    scontrol requeue \"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\"\nfi\nexit \"$status\"\n";

/// A script that sends the jobs. What is in a batch script is read by no other shell before, so that it is quoted once.
pub fn job(plan: &Plan, partition: Option<&str>) -> Result<String> {
    let Plan { name, folder, shards, cpus, megabytes, minutes, note, .. } = plan;
    let common = |name: &str, megabytes: u64| {
        let partition = partition.map_or(String::new(), |p| format!(" --partition={}", word(p)));
        format!("--parsable --job-name={}{partition} --requeue --cpus-per-task={cpus} --mem={megabytes}M", word(name))
    };
    // What is said goes beside the shards, so that their folder holds nothing else.
    let logs = plan.logs();
    // A shard writes what it has when a signal comes. The one that comes a minute before its time is over sends the job
    // again, since an array whose jobs fail is not merged; a job that is cancelled gets another.
    let mut out = format!(
        "#!/bin/sh\n# {note}\n# A shard whose time is over is sent again and goes on; `scontrol requeue JOB_TASK` does so by hand.\n\
         set -eu\nmkdir -p -- {folder} {logs}\nexport RAYON_NUM_THREADS={cpus}\n\
         job=$(sbatch {} --array=0-{} --time={minutes} --signal=B:USR1@60 --open-mode=append --output={logs}/%a.log <<'{END}'\n\
         #!/bin/sh\n{TOLD}{} --shard \"$SLURM_ARRAY_TASK_ID/{shards}\" -o {folder}/\"$SLURM_ARRAY_TASK_ID\" &\n{AGAIN}{END}\n)\n",
        common(name, *megabytes),
        shards - 1,
        line(&plan.shard),
        folder = word(folder),
        logs = word(&logs),
    );
    let mut last = String::new();
    for (i, step) in plan.after.iter().enumerate() {
        last = format!("after{}", i + 1);
        let before = if i == 0 { "${job%%;*}".to_owned() } else { format!("${{after{i}%%;*}}") };
        out.push_str(&format!(
            "{last}=$(sbatch {} --dependency=afterok:\"{before}\" --kill-on-invalid-dep=yes --time={} --signal=B:TERM@60 \
             --open-mode=append --output={}/after{}.log <<'{END}'\n#!/bin/sh\nexec {}\n{END}\n)\n",
            common(&format!("{name} {}", i + 1), step.megabytes),
            step.minutes,
            word(&logs),
            i + 1,
            line(&step.words),
        ));
    }
    out.push_str(&format!("echo \"sent: shards $job, then ${last}\"\n"));
    let spoilt = plan.shard.iter().chain(plan.after.iter().flat_map(|s| &s.words)).any(|w| w.lines().any(|l| l == END));
    // Slurm puts names of its own in the place of these.
    if spoilt || folder.contains('%') {
        return Err(Error::request(format!(
            "a line {END} or a percent sign in --output cannot be sent; name it otherwise"
        )));
    }
    Ok(out)
}
