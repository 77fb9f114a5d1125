"""Why does a deep sigmoid network not learn MNIST? Networks, gradients, sweeps.

One file a subject, from what is computed to what is seen:

    mnist       the data set, and readers for the files people have
    networks    architectures, initial parameters, the forward pass
    losses      negative log-likelihood, accuracy, the class-prior plateau
    shallow     the assignment's two-layer network, every gradient derived on one screen
    backprop    the same for any depth and for batches
    gradcheck   four independent ways to a gradient, compared
    signals     per-layer numbers: gradients, saturation, what a probe still reads
    meanfield   what theory predicts for the same numbers
    training    one training run as a pure function
    vectorized  the same for many networks at once, fast
    ensemble    many networks on all devices: start, train, evaluate, measure
    sweep       init scales x learning rates x seeds, labelled
    diagnosis   the verdict on each network, with its evidence
    remedies    what makes the deep network learn, as a league table
    answer      the assignment's questions, answered in words and tables
    runs        a run's folder on disk: finished chunks, resuming, the result
    cluster     chunks of a sweep on many machines
    figures     pictures of a result
    report      one page with all of it
"""
