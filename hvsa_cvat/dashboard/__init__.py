"""What a lead looks at: the report of a task under way, and the pages of `hvsa-agent dashboard`.

Everything is read from the workspace: its database and the folders of the tasks. The server is
never asked, and nothing waits for the agents at work.
"""
