"""Bare metal by its BMC, over Redfish: power, what is in its drive, inventory. `sushy` knows the vendors' oddities.

A BMC is slow, forgets sessions, answers after it has acted, and says yes to what it does not do: every act here is
looked at again before it is believed. May not import the store, the use cases or another driver.
"""
