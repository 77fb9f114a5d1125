"""Why does a deep sigmoid network not learn MNIST? Networks, gradients, sweeps.

Pure functions in, a labelled result out. One file a subject, from what is computed to
what is seen:

    datasets      what is learned from: three pairs of arrays
    sources       a data file as it is read, and how it is refused
    tables        images and labels out of CSV, ARFF and Parquet
    containers    named arrays out of all files that people have
    mnist         the data set, and any other of its kind: which array is what
    activations   functions of z, with exact slopes
    initializers  ways to draw weights
    networks      any pair of functions; the family of the assignment
    losses        of any number of classes, and the plateau
    gradients     by autodiff, or a user's, in JAX or NumPy
    shallow       the assignment's two-layer network, every gradient derived
    backprop      the same for any depth and for batches
    gradcheck     is a gradient right? leaf by leaf
    recipe        what a training run is
    training      the loop
    fast          the same for many networks at once, written for speed
    signals       numbers of each layer: gradients, saturation, what a probe still reads
    engines       which engine and whose gradient
    devices       arrays and compiled functions on all devices
    programs      the compiled functions of a recipe
    ensemble      the networks of one program
    axes          named axes, and who takes their values
    results       chunks of numbers, put together and labelled
    pool          networks that a rule may stop, the others closing the ranks
    sweep         a network for every point and seed
    identity      what computes a result
    files         files that are never half written
    store         a folder of finished chunks: resuming, shards
    cluster       chunks of a sweep on many machines
    meanfield     what theory predicts
    comparison    theory beside measurement
    plateau       when a network will learn, from its initial weights
    forecast      how that is said, and guessed from curves alone
    curves        what is known of each network of a result, up to its stop
    diagnosis     the verdict on each network, with its evidence
    stopping      when its verdict is final, and it need not be trained any longer
    hindsight     did the verdicts come true?
    remedies      what makes the deep network learn
    figures       pictures of a result
    report        one page with all of it
    review        a student's functions: which is wrong, and by which mistake
    student       the process that they run in
"""
