"""Workers: processes in which episodes run, so that the engine's interpreter has only its own work.

    engine's process                                   worker's process, any number
    Engine, its stepper   <-- calls, by token ids ---  RemoteEngine.submit
    EngineEnd             --- what has ended -------->  futures; template, parsers, recordings,
                                                       dialects, HTTP server, sandboxed tools
    pool.GivenEpisodes    --- tasks to begin -------->  rollout.Episodes, a thread for each
                          <-- episodes, whole -------

A worker loads the experiment as the command did. One that dies costs its episodes, and another
takes its part.
"""
