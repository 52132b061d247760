"""Logging through an outage of the tracking server: training goes on, and what it logs is delivered later, once and in order.

``operations``  what can be written to a store, as data; performing it twice has the effect of performing it once
``spool``       operations and files on disk, in order, until they are delivered
``memory``      what this process knows of its runs, to answer reads meanwhile
``connection``  requests in a thread that can be abandoned; which errors are outages
``client``      a client like MLflow's that puts them together
``delivery``    delivers what earlier processes left
"""
